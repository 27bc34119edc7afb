"""Everything dies, all the time; nothing is lost and nothing is there twice.

`PREFSTREAM_CHAOS_JOBS` says how many jobs (1,000 by default, about a minute; `make chaos`: many).
"""

import asyncio
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from service.broker import Broker
from service.client import AsyncClient, image_data
from service.schemas import (
    BdhsRequest,
    FilteredPair,
    JobStatus,
    PairFilters,
    Priority,
    RunSettings,
    SampleRequest,
)
from service.settings import Settings
from tests.failover import ReplicatedServer
from tests.faults.processes import Stage
from tests.servers import Server
from tests.service.leaks import find_leaks
from tests.service.samples import PAIRS, bdhs_result, claim_one, enqueue_bdhs, png
from tests.waiting import until

JOBS = int(os.environ.get("PREFSTREAM_CHAOS_JOBS", "1000"))
JOBS_PER_S = 30.0
WORKERS = 3
CALLERS = 2
CLOCKS_WRONG_BY_S = (-3600, 0, 3600)
RUNS = ("r0", "r1")
STEPS = ("claimed", "working", "finishing", "finished")
LEASE_S = 1.5
SETTINGS = RunSettings(
    window=1_000_000,
    keep=1_000_000,
    similar="drop",
    filters=PairFilters(finish_reasons=["stop"]),
)
DECK = Counter(
    {
        "kill worker": 8,
        "stop worker": 2,
        "kill subscriber": 4,
        "freeze subscriber": 2,
        "kill caller": 2,
        "kill api": 2,
        "restart": 2,
        "cut": 3,
        "full disk": 1,
        "failover": 1,
    }
)
"""What happens, in random order, again and again."""


@pytest_asyncio.fixture
async def replicated(tmp_path: Path) -> AsyncIterator[ReplicatedServer]:
    # `always`, because a server that is killed may otherwise lose what it had confirmed while the
    # disk was busy; that loss would be the server's, and this is about ours.
    servers = [Server("valkey", tmp_path / name, appendfsync="always") for name in "ab"]
    for server in servers:
        server.start()
    replicated = ReplicatedServer(*servers)
    async with replicated.listen():
        yield replicated
    for server in servers:
        server.kill()


@pytest.fixture
def stage(tmp_path: Path, replicated: ReplicatedServer) -> Iterator[Stage]:
    stage = Stage(
        replicated.primary,
        tmp_path,
        {
            "PREFSTREAM_REDIS_URL": replicated.url,
            "PREFSTREAM_LEASE_S": str(LEASE_S),
            "PREFSTREAM_MAX_ATTEMPTS": "50",
            "PREFSTREAM_RETRY_BASE_S": "0.05",
        },
    )
    try:
        stage.cast("api", *wrong_clock(), "service", "serve", "--port", str(stage.port))
        for number in range(WORKERS):
            name = f"worker{number}"
            stage.cast(name, *wrong_clock(), "tests.faults.stub_worker", f"{name}-{{}}")
        for number, address in enumerate((stage.url, replicated.url)):
            stub = (*wrong_clock(), "tests.faults.stub_subscriber", address, RUNS[0])
            stage.cast(f"subscriber{number}", *stub, str(tmp_path / f"acked-{number}"))
        for number in range(CALLERS):
            stage.cast(f"caller{number}", "tests.faults.stub_caller", stage.url, RUNS[1])
        yield stage
    finally:
        stage.close()


def wrong_clock() -> tuple[str, str]:
    return "tests.faults.shifted_clock", str(random.choice(CLOCKS_WRONG_BY_S))


def request(number: int) -> SampleRequest | BdhsRequest:
    """Every kind of job and of end; some meet a worker's death or frost on their way."""
    metadata: dict[str, object] = {"number": number}
    if number % 40 == 3:
        metadata["die"] = STEPS[number // 40 % len(STEPS)]
    elif number % 100 == 7:
        metadata["freeze"] = STEPS[number // 100 % 3]
    elif number % 20 == 11:
        metadata["ends"] = "failed" if number % 40 == 11 else "dead"
    metadata["outcome"] = list(PAIRS)[max(0, number // 2 % 12 - 8)]
    fields = {
        "prompt": f"Job {number}",
        "run": RUNS[number % len(RUNS)],
        "priority": list(Priority)[number % 3],
        "metadata": metadata,
    }
    if number % 5 == 0:
        return SampleRequest.model_validate(fields)
    image = image_data(png(size=(8 + number % 10, 8)))
    return BdhsRequest.model_validate(fields | {"reference": "A red square.", "images": [image]})


async def feed(url: str, accepted: dict[int, str]) -> None:
    """Posts every job, some of them twice, however often the service is away."""
    async with AsyncClient(url, retry_for_s=120) as client:

        async def post(number: int) -> None:
            job = request(number)
            for _ in range(2 if number % 10 == 0 else 1):
                send = client.bdhs if isinstance(job, BdhsRequest) else client.sample
                answer = await send(job, idempotency_key=f"job {number}")  # pyright: ignore
                assert accepted.setdefault(number, answer.id) == answer.id

        start = time.monotonic()
        async with asyncio.TaskGroup() as posts:
            for number in range(JOBS):
                await asyncio.sleep(max(0.0, start + number / JOBS_PER_S - time.monotonic()))
                posts.create_task(post(number))


async def hurt(stage: Stage, replicated: ReplicatedServer, hurts: Counter[str]) -> None:
    """One thing after another, until cancelled."""
    frozen_since: dict[str, float] = {}
    deck: list[str] = []
    while True:
        await asyncio.sleep(random.uniform(0.1, 0.5))
        stage.mend()
        for role in stage.frozen():
            since = frozen_since.setdefault(role, time.monotonic())
            if time.monotonic() > since + 2 * LEASE_S:
                stage.thaw(role)  # and lets it finish late
                del frozen_since[role]
                hurts["thaw"] += 1
        if not deck:
            deck = random.sample(list(DECK.elements()), DECK.total())
        what = deck.pop()
        match what:
            case "kill worker":
                stage.kill(stage.any("worker"))
            case "stop worker":
                stage.terminate(stage.any("worker"))
            case "kill subscriber":
                stage.kill(stage.any("subscriber"))
            case "freeze subscriber":
                stage.freeze(stage.any("subscriber"))
            case "kill caller":
                stage.kill(stage.any("caller"))
            case "full disk":
                await asyncio.to_thread(stage.fill_disk)
            case "failover":
                await replicated.fail_over()
                stage.server = replicated.primary
            case "kill api":
                stage.kill("api")
            case "restart":
                await asyncio.to_thread(stage.restart_server)
            case _:
                await cut_connections(stage.server)
        hurts[what] += 1


async def cut_connections(server: Server) -> None:
    settings = Settings.model_validate({"redis_url": server.url})
    async with Broker.connect(settings) as broker:
        for kind in ("normal", "pubsub"):
            await broker.connection.command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


async def heal(stage: Stage) -> None:
    """The end of the trouble: everybody is brought back and stays."""
    while True:
        stage.mend()
        for role in stage.frozen():
            stage.thaw(role)
        await asyncio.sleep(0.2)


@pytest.mark.timeout(300 + JOBS / 3)
async def test_nothing_is_lost_and_nothing_is_there_twice(
    stage: Stage, replicated: ReplicatedServer
) -> None:
    settings = Settings.model_validate({"redis_url": replicated.url, "lease_s": LEASE_S})
    accepted: dict[int, str] = {}
    hurts: Counter[str] = Counter()
    async with AsyncClient(stage.url, retry_for_s=60) as client:
        for run in RUNS:
            await client.put_run(run, SETTINGS)

    hurting = asyncio.create_task(hurt(stage, replicated, hurts))
    feeding = asyncio.create_task(feed(stage.url, accepted))
    await asyncio.wait({hurting, feeding}, return_when=asyncio.FIRST_COMPLETED)
    hurting.cancel()
    with suppress(asyncio.CancelledError):
        await hurting
    await feeding
    healing = asyncio.create_task(heal(stage))
    try:
        async with Broker.connect(settings) as broker:
            try:
                statuses = await _all_ended(broker, accepted)
                await _check(broker, stage, accepted, statuses)
            except BaseException:
                sys.stderr.write(f"{stage.logs()}\n{await broker.stats()}\n{stage.states()}")
                raise
    finally:
        healing.cancel()
    assert set(hurts) >= set(DECK), "everything must have happened"
    sys.stderr.write(f"\nchaos: {JOBS} jobs, {dict(hurts)}, deaths {stage.deaths}\n")


async def _all_ended(broker: Broker, accepted: dict[int, str]) -> dict[int, JobStatus]:
    assert len(accepted) == JOBS
    statuses: dict[int, JobStatus] = {}
    for number, job_id in accepted.items():
        job = await broker.jobs.wait(job_id, 120)
        assert job is not None, f"job {number} was accepted and is gone"
        assert job.ended, f"job {number} is still {job.status}"
        statuses[number] = job.status
    return statuses


async def _check(
    broker: Broker, stage: Stage, accepted: dict[int, str], statuses: dict[int, JobStatus]
) -> None:
    for number, status in statuses.items():
        expected = request(number).metadata.get("ends", "succeeded")
        assert status == expected, f"job {number}"

    for index, run in enumerate(RUNS):
        made: dict[str, list[str]] = {outcome: [] for outcome in PAIRS}
        for number in range(index, JOBS, len(RUNS)):
            asked = request(number)
            if isinstance(asked, BdhsRequest) and statuses[number] == "succeeded":
                made[str(asked.metadata["outcome"])].append(accepted[number])
        log: list[str] = []
        cursor = None
        while page := await broker.runs.pairs(run, cursor, 500):
            log += [pair.pair_id for pair in page.pairs]
            cursor = page.cursor
            if not page.pairs:
                break
        assert sorted(log) == sorted(made["pair"]), "every run's log has each pair exactly once"
        left_out = [filtered.pair.pair_id async for filtered in _left_out(broker, run)]
        assert sorted(left_out) == sorted(made["similar"] + made["filtered"])
        state = await broker.runs.get(run)
        assert state is not None
        assert state.outcomes == {outcome: len(ids) for outcome, ids in made.items() if ids}
        if run == RUNS[0]:
            await _acknowledged_once(broker, stage, run, made["pair"])
        else:
            await _held_by_nobody(broker, stage, run, made["pair"])
    assert await find_leaks(broker) == []
    figures = await broker.stats()
    assert (sum(figures.queued.values()), figures.running, figures.retrying) == (0, 0, 0)


async def _left_out(broker: Broker, run: str) -> AsyncIterator[FilteredPair]:
    cursor = None
    while (page := await broker.runs.filtered(run, cursor, 500)).pairs:
        for pair in page.pairs:
            yield pair
        cursor = page.cursor


async def _acknowledged_once(broker: Broker, stage: Stage, run: str, made: list[str]) -> None:
    async def all_acknowledged() -> bool:
        state = await broker.runs.get(run)
        return state is not None and state.groups[0].acknowledged == len(made)

    await until(all_acknowledged, 60)
    state = await broker.runs.get(run)
    assert state is not None
    [group] = state.groups
    assert (group.waiting, group.leased, group.returned, group.missed) == (0, 0, 0, 0)
    written = [line for path in stage.folder.glob("acked-*") for line in path.read_text().split()]
    assert max(Counter(written).values()) == 1, "no pair is acknowledged twice"
    assert set(written) <= set(made)


async def _held_by_nobody(broker: Broker, stage: Stage, run: str, made: list[str]) -> None:
    """Whoever hung up holds nothing, and nothing that was on its way to them is lost."""
    for role in stage.roles("caller"):
        stage.retire(role)

    async def all_back() -> bool:
        state = await broker.runs.get(run)
        return state is not None and all(
            group.leased == 0 and group.waiting + group.returned == len(made)
            for group in state.groups
        )

    await until(all_back, 30)


async def test_cut_connections_are_mended(own_server: Server) -> None:
    """No call of the broker notices that its connection was cut just before."""
    settings = Settings.model_validate({"redis_url": own_server.url})
    async with Broker.connect(settings) as broker:

        async def cut() -> None:
            await cut_connections(own_server)

        image = await broker.images.put(png())
        await cut()
        assert await broker.images.get(image) == png()
        await cut()
        job = await enqueue_bdhs(broker, run="r")
        waiting = asyncio.create_task(broker.jobs.wait(job.id, 60))
        await cut()
        claim = await claim_one(broker)
        await cut()
        assert await broker.claims.renew([claim]) == set()
        await cut()
        assert await broker.claims.finish(claim, bdhs_result(claim))
        ended = await asyncio.wait_for(waiting, 10)
        assert ended
        assert ended.status == "succeeded"
