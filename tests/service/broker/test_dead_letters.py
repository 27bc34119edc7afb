"""Dead letters, lists, retention."""

import httpx

from service.broker import Broker
from service.schemas import Job, JobError, JobStatus
from service.settings import Settings
from tests.service.leaks import find_leaks
from tests.service.samples import claim_one, enqueue, enqueue_bdhs, sample_result

OOPS = JobError(code="oops", message="It broke.", details={"list": [], "map": {}})


async def kill(broker: Broker, **fields: object) -> Job:
    job = await enqueue_bdhs(broker, **fields)
    for number in range(3):
        await broker.claims.retry(await claim_one(broker, f"w{number}"), OOPS)
    dead = await broker.jobs.get(job.id)
    assert dead
    assert dead.status == JobStatus.dead
    return dead


async def test_a_dead_letter_knows_its_history(broker: Broker) -> None:
    job = await kill(broker)
    assert job.error == OOPS
    assert [(a.attempt, a.worker, a.error) for a in job.history] == [
        (1, "w0", OOPS),
        (2, "w1", OOPS),
        (3, "w2", OOPS),
    ]
    assert job.history[0].at <= job.history[-1].at
    assert job.finished_at


async def test_a_dead_letter_is_revived(broker: Broker) -> None:
    job = await kill(broker, run="r", deadline_s=3600, priority="high")
    assert await broker.connection.redis.ttl(broker.connection.key("job", job.id)) == -1
    revived = await broker.jobs.retry_dead_letter(job.id)
    assert revived
    assert (revived.status, revived.finished_at) == (JobStatus.queued, None)
    for attempt in (4, 5, 6):
        claim = await claim_one(broker)
        assert claim.attempt == attempt
        await broker.claims.retry(claim, OOPS)
    again = await broker.jobs.get(job.id)
    assert again
    assert (again.status, len(again.history)) == (JobStatus.dead, 6)
    assert await broker.jobs.retry_dead_letter("0" * 32) is None


async def test_over_http(http: httpx.AsyncClient, worker: Broker) -> None:
    dead, other = await kill(worker, run="r"), await kill(worker, run="r")
    await enqueue(worker, run="r")
    listed = (await http.get("/jobs?state=dead")).json()["jobs"]
    assert [job["id"] for job in listed] == [other.id, dead.id]
    assert [a["error"]["code"] for a in listed[0]["history"]] == ["oops"] * 3
    retried = await http.post(f"/jobs/{dead.id}/retry")
    assert (retried.status_code, retried.json()["status"]) == (200, "queued")
    assert (await http.post("/jobs/x/retry")).status_code == 404
    assert (await http.delete("/jobs")).status_code == 422
    assert (await http.delete("/jobs?state=dead")).json() == {"purged": 1}
    assert (await http.get(f"/jobs/{other.id}")).status_code == 404
    assert (await http.get("/jobs?state=dead")).json() == {"jobs": [], "before": None}
    [run] = (await http.get("/runs")).json()
    assert (run["name"], run["open_jobs"], run["dead_jobs"]) == ("r", 2, 2)
    done = await enqueue(worker, priority="high")
    await worker.claims.finish(await claim_one(worker), sample_result())
    assert (await http.post(f"/jobs/{done.id}/retry")).status_code == 409


async def test_ended_jobs_are_kept_up_to_a_number(settings: Settings) -> None:
    few = settings.model_copy(update={"max_ended_jobs": 3, "lease_s": 0.01})
    async with Broker.connect(few) as broker:
        ended: list[Job] = []
        for _ in range(5):
            ended.append(await enqueue(broker))
            await broker.claims.finish(await claim_one(broker), sample_result())
        dead = [await kill(broker) for _ in range(5)]

        async def kept(jobs: list[Job]) -> list[bool]:
            await broker.connection.redis.delete(broker.connection.key("swept"))
            await Broker(broker.connection).sweeper.sweep()
            return [await broker.jobs.get(job.id) is not None for job in jobs]

        assert await kept(ended) == [False, False, True, True, True]
        assert await kept(dead) == [False, False, True, True, True]
        assert await find_leaks(broker) == []


async def test_ended_jobs_are_kept_up_to_their_bytes(settings: Settings) -> None:
    few = settings.model_copy(update={"max_ended_bytes": 30_000, "lease_s": 0.01})
    async with Broker.connect(few) as broker:

        async def kept(jobs: list[Job]) -> list[bool]:
            await broker.connection.redis.delete(broker.connection.key("swept"))
            await Broker(broker.connection).sweeper.sweep()
            return [await broker.jobs.get(job.id) is not None for job in jobs]

        ended: list[Job] = []
        for size in (10, 20_000, 10, 11_000, 11_000, 11_000, 10):
            ended.append(await enqueue(broker, prompt="x" * size))
            await broker.claims.finish(await claim_one(broker), sample_result())
        assert await kept(ended) == [False, False, False, True, True, True, True]
        dead = [await kill(broker, prompt="x" * 20_000) for _ in range(4)]
        assert await kept(dead) == [False, False, True, True]
        assert await kept(ended[3:]) == [True] * 4, "dead letters count apart"
        await enqueue(broker, prompt="x" * 40_000)
        await broker.claims.finish(await claim_one(broker), sample_result())
        assert await kept(ended) == [False] * 7
        [last] = (await broker.jobs.page("ended", before=None, limit=9)).jobs
        assert last.status == "succeeded", "the newest stays, however large"
        assert (await broker.stats()).ended == {"succeeded": 8, "dead": 4}
        assert await find_leaks(broker) == []


async def test_ended_jobs_are_kept_for_a_time(settings: Settings) -> None:
    brief = settings.model_copy(update={"result_ttl_s": 0.001, "lease_s": 0.01})
    async with Broker.connect(brief) as broker:
        job = await enqueue(broker)
        await broker.claims.finish(await claim_one(broker), sample_result())
        while await broker.jobs.get(job.id):
            pass
        await broker.connection.redis.delete(broker.connection.key("swept"))
        await Broker(broker.connection).sweeper.sweep()
        assert await broker.connection.redis.zcard(broker.connection.key("ended")) == 0
