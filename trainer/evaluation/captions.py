"""Object hallucination and recall of captions (CHAIR, Rohrbach et al. 2018, arXiv 1809.02156)."""

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.evaluation.objects import Vocabulary


@dataclass(frozen=True, slots=True)
class CaptionMetrics:
    """Shares in [0, 1]."""

    captions: int
    chair_i: float
    """Mentions of objects that are not there, of all mentions."""
    chair_s: float
    """Captions with at least one such mention."""
    recall: float
    """Objects of the images that their captions mention."""
    mentions: float
    """Mentions a caption, on average: captions that say less are seldom wrong."""
    cut: float
    """Captions that were cut off at the most new tokens."""


def caption_metrics(
    captions: Sequence[str],
    objects: Sequence[frozenset[str]],
    vocabulary: Vocabulary,
    cut: Sequence[bool],
) -> CaptionMetrics:
    """`objects`: what is in each caption's image. Every mention counts, also of the same object
    again; recall counts an object once."""
    mentions = false = hallucinating = recalled = 0
    for caption, present in zip(captions, objects, strict=True):
        named = vocabulary.mentions(caption)
        absent = sum(name not in present for name in named)
        mentions += len(named)
        false += absent
        hallucinating += absent > 0
        recalled += len(present & set(named))
    there = sum(map(len, objects))
    return CaptionMetrics(
        captions=len(captions),
        chair_i=false / mentions if mentions else 0.0,
        chair_s=hallucinating / len(captions),
        recall=recalled / there if there else 0.0,
        mentions=mentions / len(captions),
        cut=sum(cut) / len(captions),
    )
