"""Jobs that ask how likely answers are, and pairs that say it of their sides."""

from pathlib import Path
from typing import Any

import pytest

from service.broker import Broker
from service.schemas import (
    BdhsResult,
    Bounds,
    Job,
    JobStatus,
    LogprobsRequest,
    LogprobsResult,
    Pair,
    PairFilters,
    RunSettings,
    View,
)
from service.settings import Settings
from service.weight_store import WeightStore
from tests.worker.adapters import make_adapter
from tests.worker.jobs import REFERENCE, bdhs, ended, png, submit, working
from worker.embedder import Embedder
from worker.engine import Engine

RUN = "r"
VIEWS = [View(), View(rho=1)]


async def scored(broker: Broker, **fields: Any) -> Job:
    image = await broker.images.put(png())
    body = {"prompt": "Describe.", "images": [image], "responses": [REFERENCE], **fields}
    return await ended(broker, (await broker.jobs.enqueue(LogprobsRequest.model_validate(body))).id)


def result_of(job: Job) -> LogprobsResult:
    assert job.status is JobStatus.succeeded, job.error
    assert isinstance(job.result, LogprobsResult)
    return job.result


async def test_a_response_is_scored_by_the_version_that_is_named(
    settings: Settings, engine: Engine, embedder: Embedder, tmp_path: Path
) -> None:
    adapter = make_adapter(engine.model, tmp_path / "adapter", seed=1)
    published = WeightStore(str(tmp_path / "store")).publish(adapter, 3, "lora")
    async with Broker.connect(settings) as broker:
        await broker.weights.announce(published)
        async with working(settings, engine, embedder):
            newest = result_of(await scored(broker, views=VIEWS, seed=5))
            base = result_of(await scored(broker, views=VIEWS, seed=5, weight_version=0))
            gone = await scored(broker, weight_version=2)
        await engine.remove_lora(3)
    for result, version in ((newest, 3), (base, 0)):
        [response] = result.responses
        assert [view.weight_version for view in response.views] == [version] * 2
        assert response.views[0].tokens is None
        whole, blind = (view.sum for view in response.views)
        assert response.image_dependence == whole - blind != 0
        assert result.seed == 5
    assert newest.responses[0].views[0].sum != base.responses[0].views[0].sum
    assert gone.error
    assert gone.error.code == "version_gone"


async def test_the_same_seed_hides_the_same_tokens(
    settings: Settings, engine: Engine, embedder: Embedder
) -> None:
    views = [View(rho=0.5), View(rho=0.5), View(noise_steps=300)]
    async with Broker.connect(settings) as broker, working(settings, engine, embedder):
        first, again, other = [
            result_of(await scored(broker, views=views, seed=seed)).responses[0].views
            for seed in (1, 1, 2)
        ]
    assert [view.sum for view in first] == pytest.approx([v.sum for v in again], abs=1e-4)
    assert abs(first[0].sum - other[0].sum) > 1e-3
    assert abs(first[0].sum - first[1].sum) > 1e-3, "each view draws for itself"


async def test_texts_end_as_they_are_told_and_ids_as_they_do(
    settings: Settings, engine: Engine, embedder: Embedder
) -> None:
    renderer = engine.inputs.renderer
    ids = renderer.tokenizer("A red circle.", add_special_tokens=False)["input_ids"]
    async with Broker.connect(settings) as broker, working(settings, engine, embedder):
        whole = result_of(await scored(broker, responses=["A red circle.", ids, ""]))
        cut = result_of(await scored(broker, responses=["A red circle."], ended=False))
        text_only = result_of(await scored(broker, images=[], responses=["A red circle."]))
    first, by_ids, empty = whole.responses
    assert first.token_ids[-1] in renderer.end_token_ids
    assert cut.responses[0].token_ids == first.token_ids[:-1]
    assert by_ids.token_ids == ids
    assert empty.token_ids == first.token_ids[-1:]
    assert text_only.responses[0].image_dependence is None


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"responses": ["word " * 20_000]}, "prompt_too_long"),
        ({"responses": [[2**31 - 1]]}, "refused_by_engine"),
        ({"responses": ["An <image> in it."]}, "bad_conversation"),
    ],
)
async def test_what_cannot_be_scored_fails_once_and_says_why(
    settings: Settings,
    engine: Engine,
    embedder: Embedder,
    fields: dict[str, Any],
    code: str,
) -> None:
    async with Broker.connect(settings) as broker, working(settings, engine, embedder):
        job = await scored(broker, **fields)
        assert (job.status, job.attempt) == (JobStatus.failed, 1)
        assert job.error
        assert job.error.code == code
        result_of(await scored(broker))  # and the engine lives


async def logps_of(broker: Broker, pair: Pair, **fields: Any) -> list[float]:
    """What /logprobs says of the two sides, by their tokens: of each, under each view."""
    tokenized = [pair.chosen_token_ids or pair.chosen[0].text, pair.rejected_token_ids]
    request = LogprobsRequest.model_validate(
        {"messages": pair.prompt, "images": pair.images, "responses": tokenized, **fields}
    )
    job = await ended(broker, (await broker.jobs.enqueue(request)).id)
    return [view.sum for response in result_of(job).responses for view in response.views]


async def test_pairs_say_how_likely_their_sides_are(
    settings: Settings, engine: Engine, embedder: Embedder, tmp_path: Path
) -> None:
    adapter = make_adapter(engine.model, tmp_path / "adapter", seed=1)
    published = WeightStore(str(tmp_path / "store")).publish(adapter, 4, "lora")
    both = {"logps": True, "ref_logps": True, "run": RUN}
    async with Broker.connect(settings) as broker:
        await broker.weights.announce(published)
        async with working(settings, engine, embedder):
            made = (await ended(broker, await submit(broker, bdhs(**both)))).result
            assert isinstance(made, BdhsResult)
            [pair] = made.pairs
            policy = await logps_of(broker, pair, views=VIEWS)
            reference = await logps_of(broker, pair, weight_version=0)
            plain = (await ended(broker, await submit(broker, bdhs()))).result
        await engine.remove_lora(4)
    assert pair.logps_version == 4
    near = {"abs": 1e-3}
    assert [pair.chosen_logps, pair.rejected_logps] == pytest.approx(policy[::2], **near)
    dependence = [whole - blind for whole, blind in zip(policy[::2], policy[1::2], strict=True)]
    said = [pair.chosen_image_dependence, pair.rejected_image_dependence]
    assert said == pytest.approx(dependence, **near)
    assert [pair.ref_chosen_logps, pair.ref_rejected_logps] == pytest.approx(reference, **near)
    assert isinstance(plain, BdhsResult)
    assert plain.pairs[0].chosen_logps is plain.pairs[0].ref_chosen_logps is None


async def test_filters_bound_them(settings: Settings, engine: Engine, embedder: Embedder) -> None:
    async with Broker.connect(settings) as broker, working(settings, engine, embedder):
        filters = PairFilters(chosen_logps=Bounds(min=-1.0))
        await broker.runs.put(RUN, RunSettings(filters=filters))
        job = await ended(broker, await submit(broker, bdhs(run=RUN, logps=True)))
        unscored = await ended(broker, await submit(broker, bdhs(run=RUN)))
    assert job.result
    assert (job.result.outcome, job.result.pairs) == ("filtered", [])
    assert unscored.result
    assert unscored.result.outcome == "pair"
