"""Memory of every process while many jobs and pictures go through: flat, or does something stay?

    python -m tests.bench.soak [--jobs 100000] [--images 50000] [--policy]

A server, the service, two workers, callers over HTTP, and a subscriber, each a process of its own.
The workers are the product's own (claim, renew, heartbeat, drain) with a handler that needs no
model; `--policy` adds one with the toy policy in a real engine, which takes what it can. Retention
is short, so that what is kept is as much at half time as at the end.

Of a process the private memory (USS) is read, of the server `used_memory`: what its data take.
Ends with 1 where the last quarter is above the one before by more than `TOLERATED`.
"""

import asyncio
import io
import itertools
import json
import logging
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import structlog
import typer
from PIL import Image
from redis import Redis
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from service.broker import Broker, Claim
from service.client import AsyncClient, image_data
from service.schemas import (
    BdhsRequest,
    BdhsResult,
    JobError,
    RunSettings,
    SampleRequest,
    SampleResult,
)
from service.settings import Settings
from tests.servers import Server, free_port
from tests.service.samples import bdhs_result

RUN = "soak"
CALLERS = 64
"""Jobs that the callers have open at once."""
KEPT = 5_000
"""Ended jobs that stay readable, and acknowledged pairs that stay in the log."""
KEPT_S = 30
"""Seconds that images and idempotency keys stay."""
PICTURE = (64, 64)
SAMPLE_EVERY_S = 2.0
TOLERATED = 1.02
TOLERATED_MIB = 1.0

ENVIRONMENT = {
    "PREFSTREAM_MAX_ENDED_JOBS": str(KEPT),
    "PREFSTREAM_IMAGE_TTL_S": str(KEPT_S),
    "PREFSTREAM_IDEMPOTENCY_TTL_S": str(KEPT_S),
    "PREFSTREAM_WORKER_EMBEDDER": "embedded",
    "PREFSTREAM_WORKER_ENFORCE_EAGER": "1",
    "PREFSTREAM_WORKER_SLOTS": "4",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
}

app = typer.Typer(add_completion=False)


class Idle:
    """Where a worker has its engine."""

    alive = True
    inputs = SimpleNamespace(digest=None)


class Quick:
    """Does each job at once: reads its picture, and makes a pair of it; one of 50 fails."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def run(self, claim: Claim) -> BdhsResult | SampleResult:
        from worker.handlers import JobFailed

        if claim.request.metadata["number"] % 50 == 7:  # pyright: ignore
            raise JobFailed(JobError(code="as_asked", message="One of 50."))
        if isinstance(claim.request, BdhsRequest):
            await self._broker.images.get(claim.request.images[0])
            return bdhs_result(claim)
        return SampleResult(responses=[], seed=0)


@app.command()
def work() -> None:
    """A worker whose handler needs no model."""
    # Here, so that the other parts are as light as a client is.
    from worker.main import Worker
    from worker.settings import WorkerSettings

    async def run() -> None:
        async with Broker.connect(Settings()) as broker:
            settings = WorkerSettings(slots=32)
            worker = Worker(broker, cast(Any, Idle()), cast(Any, None), settings)
            worker._handlers = cast(Any, Quick(broker))
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
            await worker.run()

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    asyncio.run(run())


@app.command()
def call(url: str, jobs: int, images: int) -> None:
    """Posts all jobs, waits for each, and prints how many have ended."""

    def requests() -> Iterator[BdhsRequest | SampleRequest]:
        picture = ""
        for number in range(jobs):
            if number * images // jobs != (number - 1) * images // jobs:
                picture = noise()
            metadata = {"number": number}
            if number % 4 == 3:
                yield SampleRequest(prompt="What is this?", metadata=metadata)
            else:
                yield BdhsRequest(
                    prompt="Describe the image.",
                    reference="There is a red circle in the top left. There is a blue square.",
                    images=[picture],
                    run=RUN,
                    metadata=metadata,
                )

    async def run() -> None:
        async with AsyncClient(url) as client:
            ended = 0
            async for _ in client.map(requests(), in_flight=CALLERS):
                ended += 1
                if ended % 100 == 0 or ended == jobs:
                    sys.stdout.write(f"{ended}\n")
                    sys.stdout.flush()

    asyncio.run(run())


def noise() -> str:
    """A picture that is like no other, and that compression leaves as large as it is."""
    buffer = io.BytesIO()
    pixels = random.randbytes(3 * PICTURE[0] * PICTURE[1])
    Image.frombytes("RGB", PICTURE, pixels).save(buffer, format="PNG", compress_level=0)
    return image_data(buffer.getvalue())


@app.command()
def subscribe(url: str) -> None:
    """A trainer that needs no model."""

    async def run() -> None:
        async with AsyncClient(url, retry_for_s=60) as client:
            async for batch in client.batches(RUN, size=16, min_size=1):
                await batch.ack()

    asyncio.run(run())


class Memory:
    """What each part takes, again and again."""

    def __init__(self, server: Server, parts: dict[str, int]) -> None:
        """`parts`: names and process ids."""
        self._server = Redis(port=server.port)
        self._processes = {name: psutil.Process(pid) for name, pid in parts.items()}
        self.samples: list[dict[str, float]] = []
        """MiB by part."""

    def read(self) -> None:
        uss = {
            name: sum(p.memory_full_info().uss for p in [process, *process.children(True)])
            for name, process in self._processes.items()
        }
        info = cast(dict[str, Any], self._server.info("memory"))
        uss["server's data"] = info["used_memory"]
        self.samples.append({name: size / 2**20 for name, size in uss.items()})

    def table(self) -> tuple[Table, bool]:
        """And whether all are flat: the last of four quarters beside the third, by medians."""
        table = Table("memory, MiB", "at half time", "3rd quarter", "4th quarter", "growth", "most")
        quarters = [len(self.samples) * n // 4 for n in range(5)]
        flat = True
        for name in self.samples[-1]:
            read = [sample[name] for sample in self.samples]
            third, fourth = (
                statistics.median(read[start:end])
                for start, end in itertools.pairwise(quarters[2:])
            )
            flat &= fourth <= max(third * TOLERATED, third + TOLERATED_MIB)
            table.add_row(
                name,
                f"{read[quarters[2]]:.1f}",
                f"{third:.1f}",
                f"{fourth:.1f}",
                f"{fourth - third:+.1f}",
                f"{max(read):.1f}",
            )
        return table, flat


@app.command()
def soak(jobs: int = 100_000, images: int = 50_000, policy: bool = False) -> None:
    """All of it."""
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as folder:
        server = Server("valkey", Path(folder))
        server.start()
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        environment = os.environ | ENVIRONMENT | {"PREFSTREAM_REDIS_URL": server.url}
        log = Path(folder, "log")
        processes: dict[str, subprocess.Popen[str]] = {}

        def start(name: str, *command: str, stdout: Any = None) -> None:
            with log.open("a") as file:
                processes[name] = subprocess.Popen(
                    [sys.executable, "-m", *command],
                    stdout=stdout or file,
                    stderr=file,
                    env=environment,
                    text=True,
                )

        try:
            start("service", "service", "serve", "--port", str(port))
            start("worker 1", "tests.bench.soak", "work")
            start("worker 2", "tests.bench.soak", "work")
            if policy:
                start("worker with a policy", "service", "work", "--model", "toy")
            asyncio.run(_make_run(url))
            start("subscriber", "tests.bench.soak", "subscribe", url)
            calling = ("tests.bench.soak", "call", url, str(jobs), str(images))
            start("callers", *calling, stdout=subprocess.PIPE)
            memory = Memory(server, {name: process.pid for name, process in processes.items()})
            seconds = _watch(memory, processes["callers"], jobs, console)
            figures = asyncio.run(_figures(server))
        except BaseException:
            console.print(log.read_text()[-3000:], markup=False)
            raise
        finally:
            for process in processes.values():
                process.terminate()
            for process in processes.values():
                process.wait(60)
            server.stop()
    table, flat = memory.table()
    console.print(table)
    console.print(f"{jobs:,} jobs, {images:,} pictures, {seconds:.0f} s. {figures}")
    sys.exit(not flat)


async def _make_run(url: str) -> None:
    async with AsyncClient(url, retry_for_s=60) as client:
        await client.put_run(RUN, RunSettings(window=KEPT, keep=KEPT))


def _watch(memory: Memory, callers: subprocess.Popen[str], jobs: int, console: Console) -> float:
    """Reads the memory until all jobs have ended. Returns the seconds it took."""
    assert callers.stdout
    begun = read = time.monotonic()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("jobs", total=jobs)
        for line in callers.stdout:
            progress.update(task, completed=int(line))
            if time.monotonic() > read + SAMPLE_EVERY_S:
                memory.read()
                read = time.monotonic()
            if int(line) == jobs:
                return time.monotonic() - begun
    raise RuntimeError("the callers ended early")


async def _figures(server: Server) -> str:
    settings = Settings.model_validate({"redis_url": server.url})
    async with Broker.connect(settings) as broker:
        stats = await broker.stats()
        images = await broker.connection.redis.zcard(broker.connection.key("images"))
        keys = await broker.connection.redis.dbsize()
    left = {"queued": sum(stats.queued.values()), "running": stats.running, "dated images": images}
    return f"Left: {json.dumps(left)[1:-1]}, {keys} keys."


if __name__ == "__main__":
    app()
