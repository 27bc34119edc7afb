"""Pairs and traces to render."""

from collections.abc import Sequence
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

from PIL import Image

from service.schemas import (
    BdhsTrace,
    CorruptionTrace,
    ImageTrace,
    ImageView,
    IterationTrace,
    Pair,
    SentenceTrace,
    Span,
    assistant_turn,
    user_turn,
)
from service.web import ShownPair

VIEWS = [
    ImageView(start=0, rows=4, columns=4, newline=False),
    ImageView(start=16, rows=4, columns=4, newline=True),
]
REFERENCE = "Yes, a red circle. It is on the left."


def png() -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (56, 56), "red").save(buffer, "PNG")
    return buffer.getvalue()


PNG = png()


def a_pair(**changes: Any) -> Pair:
    fields: dict[str, Any] = {
        "prompt": [user_turn("Is there a red circle?", 1)],
        "images": ["sha256:" + "0" * 64],
        "chosen": [assistant_turn(REFERENCE)],
        "rejected": [assistant_turn("No, a blue one. It is on top.")],
        "pair_id": "job-1",
        "run": "demo",
        "method": "bdhs-attention",
        "chosen_version": None,
        "rejected_version": 12,
        "rejected_spans": [Span(start=3, end=15), Span(start=21, end=29)],
        "similarity": 0.7123,
        "iterations": 2,
        "seed": 99,
        "created_at": datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC),
    }
    return Pair(**{**fields, **changes})


def iteration(kept: Sequence[int], noise_steps: int = 0, **changes: Any) -> IterationTrace:
    fields: dict[str, Any] = {
        "guided": True,
        "images": [CorruptionTrace(kept=list(kept), noise_steps=noise_steps)],
        "sentences": [
            sentence("No,", " a blue one.", swapped=True),
            sentence("It is", " on top.", finish_reason="length"),
        ],
        "text": "No, a blue one. It is on top.",
        "similarity": 0.7123,
    }
    return IterationTrace(**{**fields, **changes})


def sentence(
    prefix: str, completion: str, *, swapped: bool = False, finish_reason: str = "sentence"
) -> SentenceTrace:
    return SentenceTrace(
        prefix=prefix,
        completion=completion,
        swapped=swapped,
        finish_reason=finish_reason,
        seed=1,
        weight_versions=[],
    )


def a_trace(*iterations: IterationTrace, views: Sequence[ImageView] = VIEWS) -> BdhsTrace:
    return BdhsTrace(images=[ImageTrace(tokens=36, views=list(views))], iterations=list(iterations))


def traced(*kept: Sequence[int], **changes: Any) -> ShownPair:
    return ShownPair(a_pair(**changes), [PNG], a_trace(*map(iteration, kept)))
