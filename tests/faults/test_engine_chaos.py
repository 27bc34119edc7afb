"""The real engine, while its workers are killed and frozen and the server is restarted.

A smaller round of what `test_chaos.py` does with thousands of jobs: whole workers on the toy model,
and every trouble meets one that has jobs in its hands.
"""

import asyncio
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from service.broker import Broker
from service.schemas import BdhsRequest, JobStatus
from service.settings import Settings
from tests.faults.processes import Stage
from tests.faults.stub_worker import reach
from tests.servers import Server
from tests.service.leaks import find_leaks
from trainer.toy.dataset import examples, png

WORKERS = 2
LEASE_S = 5.0
OPEN = 12
"""Jobs in line or running, until the trouble is over."""
DECK = ("kill", "freeze", "restart", "kill and restart")
TIMEOUT_S = 300.0

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "PREFSTREAM_LEASE_S": str(LEASE_S),
    "PREFSTREAM_MAX_ATTEMPTS": "20",
    "PREFSTREAM_RETRY_BASE_S": "0.05",
    "PREFSTREAM_WORKER_EMBEDDER": "embedded",
    "PREFSTREAM_WORKER_ENFORCE_EAGER": "1",
    "PREFSTREAM_WORKER_DTYPE": "float32",
    "PREFSTREAM_WORKER_GPU_MEMORY_UTILIZATION": "0.1",
    "PREFSTREAM_WORKER_MAX_LORA_RANK": "8",
    "PREFSTREAM_WORKER_SLOTS": "4",
}


@pytest_asyncio.fixture
async def stage(own_server: Server, tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(own_server, tmp_path, ENVIRONMENT | {"PREFSTREAM_REDIS_URL": own_server.url})
    try:
        for number in range(WORKERS):
            stage.cast(f"worker{number}", "service", "work", "--model", "toy")
        yield stage
    finally:
        stage.close()


class Feeder:
    """Keeps jobs in line. Each second one is long, since no iteration is different enough."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._items = examples(200, seed=1)
        self.ids: list[str] = []
        self.enough = asyncio.Event()

    async def feed(self) -> None:
        """Until there are enough. Not to be cancelled: a job that was accepted would have no id."""
        while not self.enough.is_set():
            if len(await reach(self._open)) < OPEN:
                await reach(self._enqueue)
            else:
                await asyncio.sleep(0.05)

    async def _open(self) -> list[str]:
        return await self._broker.connection.redis.zrange(
            self._broker.connection.key("open"), 0, -1
        )

    async def _enqueue(self) -> None:
        number = len(self.ids)
        item = self._items[number]
        request = BdhsRequest(
            prompt=item.prompt,
            images=[await self._broker.images.put(png(item))],
            reference=item.reference,
            rho=0.9,
            max_iterations=20,
            similarity_threshold=(-1.0, 0.97)[number // 2 % 2],
            max_tokens=48,
            seed=number,
            run=f"r{number % 2}",
        )
        job = await self._broker.jobs.enqueue(request, idempotency_key=f"job {number}")
        self.ids.append(job.id)

    async def in_hands(self) -> dict[int, list[str]]:
        """Running jobs by the process id of their worker."""
        redis, key = self._broker.connection.redis, self._broker.connection.key
        hands: dict[int, list[str]] = {}
        for job_id in await self._open():
            status, owner = await redis.hmget(key("job", job_id), "status", "owner")
            if status == "running":
                hands.setdefault(int(owner.split("-")[-2]), []).append(job_id)
        return hands

    async def ended(self) -> int:
        return sum((await self._broker.stats()).ended.values())


async def hurt(what: str, stage: Stage, feeder: Feeder, broker: Broker) -> None:
    """One trouble, of a worker that has jobs in its hands."""
    enough = await feeder.ended() + 3  # so that all go on in between
    while True:
        stage.mend()
        busy = {pid: jobs for pid, jobs in (await feeder.in_hands()).items() if stage.role(pid)}
        if busy and await feeder.ended() >= enough:
            break
        await asyncio.sleep(0.1)
    pid, jobs = random.choice(list(busy.items()))
    if "kill" in what:
        stage.kill(str(stage.role(pid)))
    if "restart" in what:
        await asyncio.to_thread(stage.restart_server)
    if "freeze" in what:
        os.kill(pid, signal.SIGSTOP)
        while set(jobs) & set((await feeder.in_hands()).get(pid, ())):
            await asyncio.sleep(0.1)
            await broker.sweeper.sweep()  # the other worker may just be starting
        os.kill(pid, signal.SIGCONT)  # and it finishes late


@pytest.mark.timeout(1500)
async def test_a_real_engines_jobs_end_once(stage: Stage) -> None:
    settings = Settings.model_validate({"redis_url": stage.server.url, "lease_s": LEASE_S})
    async with Broker.connect(settings) as broker:
        feeder = Feeder(broker)
        feeding = asyncio.create_task(feeder.feed())
        try:
            for what in random.sample(DECK, len(DECK)):
                async with asyncio.timeout(TIMEOUT_S):
                    await hurt(what, stage, feeder, broker)
            feeder.enough.set()
            await feeding
            stage.mend()
            jobs = [await broker.jobs.wait(job_id, TIMEOUT_S) for job_id in feeder.ids]
        except BaseException:
            sys.stderr.write(f"{stage.logs()}\n{await broker.stats()}\n{stage.states()}")
            raise
        finally:
            feeding.cancel()

        states = Counter(job.status for job in jobs if job is not None)
        errors = [job.error for job in jobs if job is not None and job.error]
        assert states == {JobStatus.succeeded: len(feeder.ids)}, (errors, stage.logs())
        for run in ("r0", "r1"):
            page = await broker.runs.pairs(run, None, 1000)
            mine = [job for job in jobs if job is not None and job.run == run]
            made = [pair.pair_id for job in mine if job.result for pair in job.result.pairs]
            assert sorted(pair.pair_id for pair in page.pairs) == sorted(made)
            outcomes = Counter(job.result.outcome for job in mine if job.result)
            state = await broker.runs.get(run)
            assert state is not None
            assert state.outcomes == outcomes
            assert outcomes["pair"] == len(made) > 0
            assert outcomes.total() == len(mine)
        assert max(job.attempt for job in jobs if job is not None) > 1
        assert sum(stage.deaths.values()) == sum("kill" in what for what in DECK)
        assert await find_leaks(broker) == []
    sys.stderr.write(f"\n{len(jobs)} jobs, deaths {stage.deaths}\n")
