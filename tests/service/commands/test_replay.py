"""What replay compares, and when it cannot."""

from datetime import UTC, datetime

import pytest

from service.commands.replay import differences, replay_request
from service.schemas import (
    BdhsRequest,
    BdhsResult,
    BdhsTrace,
    CorruptionTrace,
    ImageTrace,
    IterationTrace,
    Pair,
    SentenceTrace,
    Span,
    WeightSpan,
    assistant_turn,
    user_turn,
)

IMAGE = "sha256:" + "0" * 64
REQUEST = BdhsRequest(
    prompt="What?", images=[IMAGE], reference="A red circle.", rho=0.5, max_tokens=7, run="r"
)


def pair(**changes: object) -> Pair:
    made = Pair(
        prompt=[user_turn("What?", 1)],
        images=[IMAGE],
        chosen=[assistant_turn("A red circle.")],
        rejected=[assistant_turn("A blue circle.")],
        pair_id="p",
        run="r",
        method="bdhs-attention",
        chosen_version=None,
        rejected_version=3,
        rejected_spans=[Span(start=2, end=14)],
        similarity=0.5,
        iterations=1,
        seed=9,
        settings=REQUEST.settings,
        created_at=datetime.now(UTC),
    )
    return made.model_copy(update=changes)


def trace(*versions: int, kept: tuple[int, ...] = (1, 5), prefix: str = "A") -> BdhsTrace:
    sentence = SentenceTrace(
        prefix=prefix,
        completion=" blue circle.",
        swapped=False,
        finish_reason="stop",
        seed=4,
        weight_versions=[WeightSpan(start=0, end=1, version=v) for v in versions],
    )
    iteration = IterationTrace(
        guided=True,
        images=[CorruptionTrace(kept=list(kept))],
        sentences=[sentence],
        text="A blue circle.",
        similarity=0.5,
    )
    return BdhsTrace(images=[ImageTrace(tokens=36, views=[])], iterations=[iteration])


def test_the_request_is_the_one_that_made_it_less_its_run() -> None:
    request = replay_request(pair(), trace(3))
    assert request.seed == 9
    assert request.weight_version == 3
    assert request.run is None
    assert request.conversation == REQUEST.conversation
    assert request.reference == REQUEST.reference
    assert request.settings == REQUEST.settings


def test_settings_are_all_that_shapes_a_pair() -> None:
    """A new field of the request is either here or among those that do not shape it."""
    assert set(REQUEST.settings) == {
        *("temperature", "top_p", "top_k", "min_p", "max_tokens"),
        *("corruption", "guidance", "rho", "noise_steps", "max_iterations"),
        *("similarity_threshold", "swap_yes_no", "corrupt_images", "start_ratio"),
    }


@pytest.mark.parametrize(
    ("made", "seen", "reason"),
    [
        (pair(method="offline"), None, "method offline"),
        (pair(method="online"), None, "method online"),
        (pair(settings={}), None, "does not say"),
        (pair(), trace(3, 4), "versions 3, 4"),
    ],
)
def test_what_cannot_be_made_again(made: Pair, seen: BdhsTrace | None, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replay_request(made, seen)


def test_the_same_has_no_differences() -> None:
    now = BdhsResult(pairs=[pair(pair_id="other", run=None)], trace=trace(3))
    assert differences(pair(), trace(3), now) == []
    assert differences(pair(), None, now) == []


def test_that_no_pair_comes_of_it_is_a_difference() -> None:
    now = BdhsResult(outcome="same", pairs=[], trace=trace(3))
    assert differences(pair(), trace(3), now) == [("outcome", "pair", "same")]


def test_every_difference_is_shown() -> None:
    now = BdhsResult(
        pairs=[
            pair(
                rejected=[assistant_turn("A cat.")],
                rejected_spans=[Span(start=2, end=6)],
                similarity=0.4,
                iterations=2,
            )
        ],
        trace=trace(3, kept=(2,), prefix=""),
    )
    found = {what: (then, after) for what, then, after in differences(pair(), trace(3), now)}
    assert found["rejected"] == ("A blue circle.", "A cat.")
    assert found["similarity"] == ("0.5", "0.4")
    assert found["iteration 1, image 0: tokens kept"] == ("[1, 5]", "[2]")
    assert set(found) == {
        *("rejected", "spans", "iterations", "similarity"),
        *("iteration 1, image 0: tokens kept", "iteration 1: cuts"),
    }
