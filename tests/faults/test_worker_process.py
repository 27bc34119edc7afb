"""A worker and its engine, killed in the middle of jobs: nothing is lost, no pair doubled."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from service.broker import Broker
from service.schemas import JobStatus
from service.settings import Settings
from tests.servers import Server
from tests.worker import checkpoints
from tests.worker.jobs import bdhs, ended, png

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "PREFSTREAM_LEASE_S": "10",
    "PREFSTREAM_RETRY_BASE_S": "0",
    "PREFSTREAM_WORKER_DTYPE": "float32",
    "PREFSTREAM_WORKER_ENFORCE_EAGER": "1",
    "PREFSTREAM_WORKER_GPU_MEMORY_UTILIZATION": "0.1",
    "PREFSTREAM_WORKER_MAX_LORA_RANK": "8",
    "PREFSTREAM_WORKER_ENGINE_STALL_S": "8",
}

JOBS = 6


class WorkerProcess:
    """`prefstream work` on a tiny checkpoint."""

    def __init__(self, server: Server, model: Path, log: Path):
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "service",
                    "work",
                    "--model",
                    str(model),
                    "--embedder",
                    "embedded",
                ],
                env={**os.environ, **ENVIRONMENT, "PREFSTREAM_REDIS_URL": server.url},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.log = log

    @property
    def family(self) -> list[psutil.Process]:
        """The processes below it: vLLM's engine core and its workers."""
        return psutil.Process(self._process.pid).children(recursive=True)

    def engine_core(self) -> psutil.Process:
        return next(
            p for p in self.family if "EngineCore" in p.name() or "EngineCore" in str(p.cmdline())
        )

    def check(self) -> None:
        assert self._process.poll() is None, self.log.read_text()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def terminate(self) -> int:
        self._process.terminate()
        return self._process.wait(60)

    def end(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@pytest.fixture
async def broker(own_server: Server) -> AsyncIterator[Broker]:
    async with Broker.connect(Settings(redis_url=own_server.url, lease_s=10)) as broker:
        yield broker


async def until_running(broker: Broker, ids: list[str], worker: WorkerProcess) -> None:
    """All of these jobs are in the worker's hands."""
    async with asyncio.timeout(120):
        while True:
            jobs = [await broker.jobs.get(job_id) for job_id in ids]
            if all(job is not None and job.status is JobStatus.running for job in jobs):
                return
            worker.check()
            await asyncio.sleep(0.02)


async def long_jobs(broker: Broker) -> list[str]:
    """Long enough to be caught in the middle of."""
    ref = await broker.images.put(png())
    make = bdhs(max_tokens=150, rho=0.0, run="r", max_iterations=3, similarity_threshold=-1.0)
    return [(await broker.jobs.enqueue(make(ref))).id for _ in range(JOBS)]


@pytest.mark.timeout(500)
async def test_engine_and_worker_killed_in_the_middle(
    broker: Broker, own_server: Server, tmp_path: Path
) -> None:
    model = checkpoints.llava(tmp_path / "model")
    first = WorkerProcess(own_server, model, tmp_path / "first.log")
    second: WorkerProcess | None = None
    try:
        # The engine dies: its worker starts another, and the jobs it held are run again.
        ids = await long_jobs(broker)
        await until_running(broker, ids, first)
        first.engine_core().kill()
        jobs = [await ended(broker, job_id) for job_id in ids]
        assert [job.status for job in jobs] == [JobStatus.succeeded] * JOBS, first.log.read_text()
        assert max(job.attempt for job in jobs) >= 2
        # The engine gets stuck: it counts as dead, and the same happens.
        stuck = await long_jobs(broker)
        await until_running(broker, stuck, first)
        first.engine_core().suspend()
        for job_id in stuck:
            assert (await ended(broker, job_id)).status is JobStatus.succeeded
        ids += stuck
        # The worker dies: another one runs its jobs when the leases have run out.
        more = await long_jobs(broker)
        await until_running(broker, more, first)
        orphans = first.family
        first.kill()
        second = WorkerProcess(own_server, model, tmp_path / "second.log")
        for job_id in more:
            job = await ended(broker, job_id)
            assert job.status is JobStatus.succeeded
            assert job.attempt >= 2
        page = await broker.runs.pairs("r", None, 100)
        assert sorted(pair.pair_id for pair in page.pairs) == sorted(ids + more)
        # vLLM's processes notice that their parent is gone.
        _, alive = await asyncio.to_thread(psutil.wait_procs, orphans, 30)
        assert alive == []
        # SIGTERM: an orderly end, and nobody left.
        below = second.family
        assert await asyncio.to_thread(second.terminate) == 0, second.log.read_text()
        _, alive = await asyncio.to_thread(psutil.wait_procs, below, 30)
        assert alive == []
        assert await broker.workers.all() == []
    finally:
        first.end()
        if second is not None:
            second.end()
