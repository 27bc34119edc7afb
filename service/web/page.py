"""Pairs as one self-contained HTML page: it asks for nothing, and reads without its script."""

import json
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from service.schemas import BdhsTrace, CorruptionTrace, ImageTrace, IterationTrace, Message, Pair
from service.web.patches import PatchMap, kept_patches, patch_map, svg_path
from service.web.text_segments import TextSegment, text_segments
from service.web.thumbnail import Thumbnail, thumbnail


@dataclass(frozen=True)
class ShownPair:
    pair: Pair
    images: Sequence[bytes]
    """The encoded images of the prompt."""
    trace: BdhsTrace | None


@dataclass(frozen=True)
class _Picture:
    """An image of the prompt, and what the model saw of it in the last iteration."""

    thumbnail: Thumbnail | None
    """None where it cannot be read."""
    patches: PatchMap | None
    """None where it is not known what was hidden."""
    visibility: str | None
    """In words."""


@dataclass(frozen=True)
class _Card:
    """A pair as the template lays it out."""

    number: int
    pair: Pair
    pictures: list[_Picture]
    chosen: str
    rejected: list[TextSegment]
    facts: list[tuple[str, str]]
    trace: BdhsTrace | None
    metadata: str | None


def render_pairs(
    pairs: Sequence[ShownPair], *, title: str, summary: Sequence[tuple[str, str]] = ()
) -> str:
    """The page; `summary` holds the key figures above the pairs, each a label and a value."""
    return _template().render(
        title=title,
        summary=summary,
        total=len(pairs),
        cards=(_card(number, shown) for number, shown in enumerate(pairs, start=1)),
        csp_hash=_csp_hash,
        has_unlisted_text=has_unlisted_text,
        visibility=visibility,
        svg_path=svg_path,
    )


def visibility(trace: BdhsTrace, iteration: IterationTrace) -> str:
    """In words, how much of the image the model could see in an iteration."""
    return "; ".join(
        _image_visibility(image, corruption)
        for image, corruption in zip(trace.images, iteration.images, strict=True)
    )


def _image_visibility(image: ImageTrace, corruption: CorruptionTrace) -> str:
    kept, total = len(corruption.kept), image.tokens
    if not kept:
        words = f"nothing visible: 0 of {total:,} image tokens kept"
    elif kept == total:
        words = f"all {total:,} image tokens kept"
    elif image.views and not any(any(kept_patches(v, corruption.kept)) for v in image.views):
        words = f"nothing visible: {kept:,} of {total:,} image tokens kept, none of them a patch"
    else:
        words = f"{kept:,} of {total:,} image tokens kept"
    return words + (f"; noise, {corruption.noise_steps:,} steps" if corruption.noise_steps else "")


def has_unlisted_text(iteration: IterationTrace) -> bool:
    """Whether the text is more than its sentences one after the other, white space aside."""
    sentences = "".join(sentence.prefix + sentence.completion for sentence in iteration.sentences)
    return "".join(sentences.split()) != "".join(iteration.text.split())


def _card(number: int, shown: ShownPair) -> _Card:
    pair, trace = shown.pair, shown.trace
    last = trace.iterations[-1] if trace and trace.iterations else None
    return _Card(
        number=number,
        pair=pair,
        pictures=list(_pictures(shown.images, trace, last)),
        chosen=_text(pair.chosen),
        rejected=text_segments(_text(pair.rejected), pair.rejected_spans),
        facts=list(_facts(pair, last)),
        trace=trace if last else None,
        metadata=json.dumps(pair.metadata, ensure_ascii=False, indent=2) if pair.metadata else None,
    )


def _pictures(
    images: Sequence[bytes], trace: BdhsTrace | None, last: IterationTrace | None
) -> Iterable[_Picture]:
    for index, data in enumerate(images):
        patches, words = None, None
        if trace and last:
            image, corruption = trace.images[index], last.images[index]
            words = _image_visibility(image, corruption)
            if image.views or not corruption.kept:
                patches = patch_map(image.views, corruption.kept)
        yield _Picture(thumbnail(data), patches, words)


def _facts(pair: Pair, last: IterationTrace | None) -> Iterable[tuple[str, str]]:
    if pair.similarity is not None:
        yield "Similarity", f"{pair.similarity:.3f}"
    if pair.iterations is not None:
        yield "Iterations", str(pair.iterations)
    if last:
        yield "Last iteration", "guided" if last.guided else "unguided"
    yield "Chosen by", _writer(pair.chosen_version)
    yield "Rejected by", _writer(pair.rejected_version)
    if pair.seed is not None:
        yield "Seed", str(pair.seed)
    if pair.run is not None:
        yield "Run", pair.run


def _writer(version: int | None) -> str:
    return "data set" if version is None else f"version {version}"


def _text(messages: Sequence[Message]) -> str:
    return "\n\n".join(message.text for message in messages)


def _csp_hash(content: str) -> str:
    return "sha256-" + b64encode(sha256(content.encode()).digest()).decode()


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("pairs.html.j2")
