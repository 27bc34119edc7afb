"""What a run leaves out: what is no preference, what is still similar, what lies beyond bounds."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.broker import Broker, LogChanged
from service.pair_figures import pair_figures
from service.schemas import (
    Bounds,
    LeaseRequest,
    Outcome,
    PairFilters,
    PairRequest,
    RunSettings,
    assistant_turn,
    outcome_of_texts,
)
from tests.service.samples import bdhs_result, claim_one, enqueue_bdhs

pytestmark = pytest.mark.asyncio


async def offer(broker: Broker, **fields: Any) -> tuple[str, str | None]:
    """A job whose pair has these fields: its id, and what came of it."""
    job = await enqueue_bdhs(broker, run="r")
    claim = await claim_one(broker)
    assert await broker.claims.finish(claim, bdhs_result(claim, **fields))
    ended = await broker.jobs.get(job.id)
    assert ended
    assert ended.result
    assert (ended.result.outcome == "pair") == bool(ended.result.pairs)
    return job.id, ended.result.outcome


async def log(broker: Broker) -> list[str]:
    return [pair.pair_id for pair in (await broker.runs.pairs("r", None, 1000)).pairs]


def bounds(low: float | None = None, high: float | None = None) -> Bounds:
    return Bounds(min=low, max=high)


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("A red square.", "same"),
        ("  A red\nsquare. ", "same"),
        ("A red square.\u200b", "same"),
        ("", "empty"),
        (" \n", "empty"),
        ("a red square.", "pair"),
    ],
)
async def test_what_is_no_preference_is_never_appended(
    broker: Broker, text: str, outcome: str
) -> None:
    """Whatever the worker, perhaps of another release, says of it."""
    job, came_of_it = await offer(broker, rejected=[assistant_turn(text)])
    assert came_of_it == outcome
    assert await log(broker) == [job] * (outcome == "pair")
    run = await broker.runs.get("r")
    assert run
    assert (run.outcomes, run.open_jobs) == ({outcome: 1}, 0)
    assert (await broker.runs.filtered("r", None, 10)).pairs == []


async def test_an_outcome_of_a_later_release_is_read_as_it_is(broker: Broker) -> None:
    job, _ = await offer(broker)
    connection = broker.connection
    await connection.redis.hset(connection.key("job", job), "outcome", "dull")
    ended = await broker.jobs.get(job)
    assert ended
    assert ended.result
    assert ended.result.outcome == "dull"


@pytest.mark.parametrize(
    ("filters", "inside", "outside"),
    [
        ({"similarity": bounds(0.2, 0.9)}, {"similarity": 0.9}, {"similarity": 0.91}),
        ({"similarity": bounds(low=0)}, {"similarity": 0.0}, {"similarity": -1e-9}),
        ({"chosen_tokens": bounds(4)}, {"chosen_tokens": 4}, {"chosen_tokens": 3}),
        ({"rejected_tokens": bounds(high=9)}, {"rejected_tokens": 9}, {"rejected_tokens": 10}),
        (
            {"token_ratio": bounds(0.5, 2)},
            {"chosen_tokens": 4, "rejected_tokens": 8},
            {"chosen_tokens": 4, "rejected_tokens": 9},
        ),
        (
            {"rejected_repetition": bounds(high=0.3)},
            {"rejected": [assistant_turn("one two three four five six seven")]},
            {"rejected": [assistant_turn("a red cat and " * 9)]},
        ),
        (
            {"finish_reasons": ["stop", "sentence"]},
            {"rejected_finish_reason": "sentence"},
            {"rejected_finish_reason": "length", "chosen_finish_reason": "stop"},
        ),
    ],
)
async def test_a_filter_takes_what_it_allows_and_what_lacks_its_figure(
    broker: Broker, filters: dict[str, Any], inside: dict[str, Any], outside: dict[str, Any]
) -> None:
    run = await broker.runs.put("r", RunSettings(filters=PairFilters(**filters)))
    assert run.settings.filters == PairFilters(**filters)
    [name] = filters
    taken, _ = await offer(broker, **inside)
    left_out, outcome = await offer(broker, **outside)
    assert outcome == "filtered"
    lacking, _ = await offer(broker, **dict.fromkeys(inside) if "rejected" not in inside else {})
    assert await log(broker) == [taken, lacking]
    [filtered] = (await broker.runs.filtered("r", None, 10)).pairs
    assert (filtered.pair.pair_id, filtered.filters) == (left_out, [name])
    run = await broker.runs.get("r")
    assert run
    assert (run.outcomes, run.filtered) == ({"pair": 2, "filtered": 1}, {name: 1})


async def test_what_is_still_similar_is_kept_or_dropped(broker: Broker) -> None:
    job, outcome = await offer(broker, similarity=0.97)
    assert outcome == "pair"  # as in the paper
    await broker.runs.put("r", RunSettings(similar="drop"))
    dropped, outcome = await offer(broker, similarity=0.97)
    assert outcome == "similar"
    below, _ = await offer(broker, similarity=0.9699)
    assert await log(broker) == [job, below]
    [filtered] = (await broker.runs.filtered("r", None, 10)).pairs
    assert (filtered.pair.pair_id, filtered.filters) == (dropped, ["similar"])


async def test_what_was_left_out_fills_no_window_and_is_leased_to_nobody(broker: Broker) -> None:
    filters = PairFilters(similarity=bounds(high=0.1))
    await broker.runs.put("r", RunSettings(window=1, filters=filters))
    for _ in range(3):
        _, outcome = await offer(broker)
        assert outcome == "filtered"
    assert await broker.batches.lease("r", LeaseRequest(size=1)) is None


async def test_the_newest_of_what_was_left_out_are_kept_and_read_in_pages(broker: Broker) -> None:
    strict = PairFilters(similarity=bounds(high=0.1))
    await broker.runs.put("r", RunSettings(filters=strict, keep=4))
    made = [(await offer(broker))[0] for _ in range(6)]
    read: list[str] = []
    cursor = None
    while (page := await broker.runs.filtered("r", cursor, 3)).pairs:
        read += [filtered.pair.pair_id for filtered in page.pairs]
        cursor = page.cursor
    assert read == made[-4:]
    made.append((await offer(broker))[0])
    page = await broker.runs.filtered("r", cursor, 3)
    assert [filtered.pair.pair_id for filtered in page.pairs] == made[-1:]

    await broker.runs.put("r", RunSettings(filters=strict, keep=4, retention=2))
    made.append((await offer(broker))[0])
    page = await broker.runs.filtered("r", None, 9)
    assert [filtered.pair.pair_id for filtered in page.pairs] == made[-2:]

    await broker.runs.delete("r")
    with pytest.raises(KeyError):
        await broker.runs.filtered("r", None, 3)
    await broker.runs.put("r", RunSettings())
    with pytest.raises(LogChanged, match="made anew"):
        await broker.runs.filtered("r", cursor, 3)


async def test_images_of_what_was_left_out_stay_as_long_as_it_does(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(filters=PairFilters(similarity=bounds(high=0.1))))
    await offer(broker)
    [filtered] = (await broker.runs.filtered("r", None, 1)).pairs
    [ref] = filtered.pair.images
    connection = broker.connection

    async def sweep() -> int:
        await connection.redis.delete(connection.key("images_swept"))
        await connection.redis.zadd(connection.key("images"), {ref: 1})  # not named for long
        return await broker.images.sweep()

    assert await sweep() == 0
    await broker.runs.delete("r")
    assert await sweep() == 1


async def test_a_pair_of_a_data_set_meets_the_filters_too(broker: Broker) -> None:
    filters = PairFilters(similarity=bounds(0.5), rejected_repetition=bounds(high=0.2))
    await broker.runs.put("r", RunSettings(filters=filters))
    fine = PairRequest(prompt="?", chosen="Yes.", rejected="No.", pair_id="fine")
    twice = PairRequest(prompt="?", chosen="Yes.", rejected="one two three four " * 9, pair_id="no")
    taken = await broker.runs.append("r", fine)
    assert (taken.outcome, taken.filters) == ("pair", [])
    for repeated in (False, True):
        left_out = await broker.runs.append("r", twice)
        assert left_out.repeated == repeated
        assert (left_out.outcome, left_out.filters) == ("filtered", ["rejected_repetition"])
    assert await log(broker) == ["fine"]
    run = await broker.runs.get("r")
    assert run
    assert run.outcomes == {"filtered": 1, "pair": 1}


async def test_figures_are_counted(broker: Broker) -> None:
    for similarity, iterations in ((0.5, 1), (0.96, 2), (0.98, 5)):
        await offer(broker, similarity=similarity, iterations=iterations)
    run = await broker.runs.get("r")
    assert run
    similarity = run.distributions["similarity"]
    assert similarity.count == 3
    assert similarity.mean == pytest.approx((0.5 + 0.96 + 0.98) / 3)
    assert {b.le: b.count for b in similarity.buckets if b.count} == {0.6: 1, 0.97: 1, 0.99: 1}
    iterations = run.distributions["iterations"]
    assert {b.le: b.count for b in iterations.buckets if b.count} == {1: 1, 2: 1, 5: 1}
    assert "chosen_tokens" not in run.distributions


texts = st.text(st.sampled_from("aB .\n\u200b红é"), max_size=12)
some_bounds = st.none() | st.builds(
    lambda a, b: bounds(*sorted((a, b))), st.floats(-1, 3), st.floats(-1, 3)
)


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(
    chosen=texts,
    rejected=texts,
    figures=st.fixed_dictionaries(
        {
            "similarity": st.none() | st.floats(-1, 1),
            "chosen_tokens": st.none() | st.integers(0, 3),
            "rejected_tokens": st.none() | st.integers(0, 3),
            "rejected_finish_reason": st.sampled_from([None, "stop", "length"]),
        }
    ),
    filters=st.builds(
        PairFilters,
        **{name: some_bounds for name in PairFilters.model_fields if name != "finish_reasons"},
        finish_reasons=st.none() | st.just(["stop"]),
    ),
    similar=st.sampled_from(["keep", "drop"]),
)
async def test_whatever_comes_an_appended_pair_is_a_preference_and_passes(
    broker: Broker,
    chosen: str,
    rejected: str,
    figures: dict[str, Any],
    filters: PairFilters,
    similar: str,
) -> None:
    await broker.runs.put("r", RunSettings(filters=filters, similar=similar))
    before = await log(broker)
    sides = {"chosen": [assistant_turn(chosen)], "rejected": [assistant_turn(rejected)]}
    job, outcome = await offer(broker, **sides, **figures)
    after = await broker.runs.pairs("r", None, 1000)
    run = await broker.runs.get("r")
    assert run
    assert run.outcomes.get("pair", 0) == run.pairs == len(after.pairs)
    await broker.runs.delete("r")
    if outcome != Outcome.pair:
        assert [pair.pair_id for pair in after.pairs] == before
        assert outcome in ("same", "empty", "similar", "filtered")
        return
    [pair] = after.pairs
    assert pair.pair_id == job
    assert outcome_of_texts(pair.chosen[0].text, pair.rejected[0].text) == "pair"
    for name, value in pair_figures(pair).items():
        bound = getattr(filters, name, None)
        if bound:
            assert bound.min is None or value >= bound.min
            assert bound.max is None or value <= bound.max
    if filters.finish_reasons:
        assert pair.rejected_finish_reason in (None, *filters.finish_reasons)
    if similar == "drop" and pair.similarity is not None:
        assert pair.similarity < 0.97
