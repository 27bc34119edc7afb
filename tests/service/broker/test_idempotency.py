"""An idempotency key holds for its day, whatever becomes of its job."""

import pytest

from service.broker import Broker, IdempotencyConflict, JobGone
from service.schemas import BdhsRequest, JobError, PairRequest, RunSettings
from service.settings import Settings
from tests.service.samples import bdhs_result, claim_one, png, sample_request, sample_result

OOPS = JobError(code="oops", message="It broke.")


async def sweep(broker: Broker) -> None:
    await broker.connection.redis.delete(broker.connection.key("swept"))
    await Broker(broker.connection).sweeper.sweep()


async def bdhs_request(broker: Broker, run: str) -> BdhsRequest:
    ref = await broker.images.put(png())
    return BdhsRequest(prompt="What is this?", reference="A red square.", images=[ref], run=run)


async def test_a_job_that_is_no_longer_kept_is_not_run_again(settings: Settings) -> None:
    few = settings.model_copy(update={"max_ended_jobs": 1, "max_queue_depth": 2})
    async with Broker.connect(few) as broker:
        request = await bdhs_request(broker, "r")
        first = await broker.jobs.enqueue(request, idempotency_key="k")
        claim = await claim_one(broker)
        await broker.claims.finish(claim, bdhs_result(claim))
        for _ in range(2):
            await broker.jobs.enqueue(sample_request())
            await broker.claims.finish(await claim_one(broker), sample_result())
        await sweep(broker)
        assert await broker.jobs.get(first.id) is None
        with pytest.raises(JobGone, match=first.id):
            await broker.jobs.enqueue(request, idempotency_key="k")
        with pytest.raises(IdempotencyConflict):
            await broker.jobs.enqueue(sample_request(run="r"), idempotency_key="k")
        assert await broker.claims.claim("w1", 1, block_s=0) == []
        assert len((await broker.runs.pairs("r", None, 10)).pairs) == 1
        for _ in range(2):
            await broker.jobs.enqueue(sample_request())
        await broker.jobs.check_room("r", "k")  # what is known needs no room


async def test_a_purged_dead_letter_is_not_run_again(broker: Broker) -> None:
    await broker.jobs.enqueue(sample_request(), idempotency_key="k")
    await broker.claims.retry(await claim_one(broker), OOPS, give_up=True)
    assert await broker.jobs.purge_dead_letters() == 1
    with pytest.raises(JobGone):
        await broker.jobs.enqueue(sample_request(), idempotency_key="k")


@pytest.mark.parametrize("made", ["by hand", "by the job"])
async def test_a_run_that_is_made_anew_takes_the_same_keys(broker: Broker, made: str) -> None:
    request = await bdhs_request(broker, "r")
    pair = PairRequest(prompt="?", chosen="Yes.", rejected="No.", pair_id="p")
    for _ in range(2):
        if made == "by hand":
            await broker.runs.put("r", RunSettings())
        job = await broker.jobs.enqueue(request, idempotency_key="k")
        assert await broker.jobs.enqueue(request, idempotency_key="k") == job
        claim = await claim_one(broker)
        assert claim.job_id == job.id
        await broker.claims.finish(claim, bdhs_result(claim))
        assert not (await broker.runs.append("r", pair)).repeated
        assert (await broker.runs.append("r", pair)).repeated
        assert len((await broker.runs.pairs("r", None, 10)).pairs) == 2
        await broker.runs.delete("r")
    other = await broker.jobs.enqueue(sample_request(), idempotency_key="k")
    assert await broker.jobs.enqueue(sample_request(), idempotency_key="k") == other


async def test_a_key_ends_with_its_time(settings: Settings) -> None:
    brief = settings.model_copy(update={"idempotency_ttl_s": 0.001})
    async with Broker.connect(brief) as broker:
        first = await broker.jobs.enqueue(sample_request(), idempotency_key="k")
        while (again := await broker.jobs.enqueue(sample_request(), idempotency_key="k")) == first:
            pass
        assert again.id != first.id
