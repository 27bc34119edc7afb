"""VLFeedback (Li et al. 2023, arXiv 2312.10665): answers of four models, rated by GPT-4V.

Rows of {id, prompt, image or img_path, completions}. `completions` holds, per model, its `response`
and `annotations`: ratings from 1 to 5 for helpfulness, ethical considerations and visual
faithfulness; as columns ({model: […], response: […], annotations: […]}) or as a list of objects.

The pair is the best answer against the worst, by the mean of the ratings, as Silkie's authors rank
them. An answer with a rating that is no number is left out; without two different means there is no
preference.
"""

import math
from collections.abc import Iterator
from typing import Any

from trainer.data import turns
from trainer.data.example import Example
from trainer.data.images import images_of_row


def matches(row: dict[str, Any]) -> bool:
    return "prompt" in row and "completions" in row


def examples(row: dict[str, Any]) -> Iterator[Example]:
    completions = row["completions"]
    if isinstance(completions, dict):
        names = ("model", "response", "annotations")
        columns = zip(*(completions[name] for name in names), strict=True)
        completions = [dict(zip(names, values, strict=True)) for values in columns]
    rated = [(mean, c) for c in completions if (mean := _mean(c["annotations"])) is not None]
    if not rated:
        return
    best, worst = max(rated, key=_first), min(rated, key=_first)
    if best[0] == worst[0]:
        return
    images = images_of_row(row)
    yield Example(
        messages=[turns.user_turn(row["prompt"], len(images))],
        images=images,
        chosen=best[1]["response"],
        rejected=worst[1]["response"],
        metadata={
            "id": str(row.get("id", "")),
            "models": [best[1]["model"], worst[1]["model"]],
            "ratings": [best[0], worst[0]],
        },
    )


def _mean(annotations: dict[str, Any]) -> float | None:
    """Over the aspects; None: not all ratings are numbers."""
    try:
        ratings = [float(aspect["Rating"]) for aspect in annotations.values()]
    except (ValueError, TypeError):
        return None
    if not all(map(math.isfinite, ratings)):
        return None
    return sum(ratings) / len(ratings) if ratings else None


def _first(rated: tuple[float, Any]) -> float:
    return rated[0]
