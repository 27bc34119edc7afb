"""Jobs per second of empty jobs, end to end with their results, beside taskiq-redis and pydocket.

    python -m tests.bench.queue

One process enqueues the jobs, `CALLS` calls at a time, and then collects every result, each library
in its own way; 1 to 4 processes work, `SLOTS` jobs at a time each. Ours are the worker's own loops
(claim, renew, heartbeat, watch for cancellation) with a handler that needs no model. All three on
one Valkey, in turns. The rivals promise less: docs/benchmarks.md.
"""

import asyncio
import logging
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol, TypeVar, cast

from rich.console import Console
from rich.table import Table

from service.broker import Broker, Claim
from service.schemas import SampleRequest, SampleResult
from service.settings import Settings
from tests.servers import Server

JOBS = 2000
WORKERS = (1, 2, 3, 4)
SLOTS = 100
CALLS = 64
ROUNDS = 3

T = TypeVar("T")
S = TypeVar("S")


class Queue(Protocol):
    """A library under test. Each method runs in a process of its own."""

    name: str

    async def work(self, url: str) -> None:
        """Runs jobs until it is killed."""
        ...

    async def produce(self, url: str, count: int) -> None:
        """Enqueues so many empty jobs, and returns when it has the result of each."""
        ...


class Ours:
    name = "prefstream"

    async def work(self, url: str) -> None:
        import structlog

        from worker.main import Worker
        from worker.settings import WorkerSettings

        # The rivals, too, say nothing of single jobs.
        quiet = structlog.make_filtering_bound_logger(logging.WARNING)
        structlog.configure(wrapper_class=quiet)

        class Idle:
            alive = True
            inputs = SimpleNamespace(digest=None)

        class Quick:
            async def run(self, claim: Claim) -> SampleResult:
                return SampleResult(responses=[], seed=0)

        async with Broker.connect(_settings(url)) as broker:
            worker = Worker(broker, cast(Any, Idle()), cast(Any, None), WorkerSettings(slots=SLOTS))
            worker._handlers = cast(Any, Quick())
            await worker.run()

    async def produce(self, url: str, count: int) -> None:
        async with Broker.connect(_settings(url)) as broker:

            async def add(_: int) -> str:
                return (await broker.jobs.enqueue(SampleRequest(prompt="?"))).id

            async def collect(job_id: str) -> None:
                job = await broker.jobs.wait(job_id, 60)
                assert job
                assert job.result

            await in_turns(collect, await in_turns(add, range(count)))


class Taskiq:
    name = "taskiq-redis"

    async def work(self, url: str) -> None:
        from taskiq.api import run_receiver_task

        broker, _ = self._broker(url)
        await run_receiver_task(broker, run_startup=True, max_async_tasks=SLOTS)

    async def produce(self, url: str, count: int) -> None:
        broker, empty = self._broker(url)
        await broker.startup()
        await in_turns(
            lambda task: task.wait_result(check_interval=0.005),
            await in_turns(lambda _: empty.kiq(), range(count)),
        )
        await broker.shutdown()

    def _broker(self, url: str) -> tuple[Any, Any]:
        from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

        backend: Any = RedisAsyncResultBackend(url, result_ex_time=600)
        broker = RedisStreamBroker(url, consumer_id="0").with_result_backend(backend)

        @broker.task(task_name="empty")
        async def empty() -> int:
            return 0

        return broker, empty


class Pydocket:
    name = "pydocket"

    async def work(self, url: str) -> None:
        from docket import Docket, Worker

        async with Docket("bench", url) as docket:
            docket.register(nothing)
            async with Worker(docket, concurrency=SLOTS) as worker:
                await worker.run_forever()

    async def produce(self, url: str, count: int) -> None:
        from docket import Docket

        async with Docket("bench", url, execution_ttl=timedelta(minutes=10)) as docket:
            add = docket.add(nothing)
            await in_turns(
                lambda execution: execution.get_result(),
                await in_turns(lambda _: add(), range(count)),
            )


async def nothing() -> int:
    return 0


async def in_turns(call: Callable[[S], Awaitable[T]], items: Iterable[S]) -> list[T]:
    """The results of all calls, of which `CALLS` run at a time."""
    rest = enumerate(items)
    results: dict[int, T] = {}

    async def caller() -> None:
        for index, item in rest:
            results[index] = await call(item)

    await asyncio.gather(*(caller() for _ in range(CALLS)))
    return [results[index] for index in sorted(results)]


def _settings(url: str) -> Settings:
    return Settings.model_validate({"redis_url": url})


def _run(work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
    asyncio.run(work(*args))


def _time(queue: Queue, url: str, seconds: Any) -> None:
    """In a process: a warm-up, then the clock."""

    async def produce() -> None:
        await queue.produce(url, JOBS // 10)
        start = time.perf_counter()
        await queue.produce(url, JOBS)
        seconds.value = time.perf_counter() - start

    asyncio.run(produce())


def measure(queue: Queue, server: Server, workers: int) -> float:
    """Jobs per second."""
    server.flush()
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["worker.main", "taskiq_redis", "docket"])
    seconds = forks.Value("d", 0.0)
    working = [forks.Process(target=_run, args=(queue.work, server.url)) for _ in range(workers)]
    producing = forks.Process(target=_time, args=(queue, server.url, seconds))
    for process in [*working, producing]:
        process.start()
    producing.join()
    for process in working:
        process.kill()
        process.join()
    if producing.exitcode:
        raise RuntimeError(f"{queue.name} failed; its error is above")
    return JOBS / seconds.value


def main() -> None:
    try:
        import docket  # noqa: F401  # pyright: ignore
        import taskiq_redis  # noqa: F401  # pyright: ignore
    except ImportError as missing:
        sys.exit(f"{missing}. The rivals are an extra: pip install 'prefstream[bench]'")
    queues: list[Queue] = [Ours(), Taskiq(), Pydocket()]
    table = Table("workers", *(f"{queue.name}, jobs/s" for queue in queues), "ratio to the better")
    with tempfile.TemporaryDirectory() as folder:
        server = Server("valkey", Path(folder))
        server.start()
        try:
            for workers in WORKERS:
                rounds = [[measure(q, server, workers) for q in queues] for _ in range(ROUNDS)]
                ours, *rivals = (statistics.median(column) for column in zip(*rounds, strict=True))
                table.add_row(
                    str(workers),
                    *(f"{rate:.0f}" for rate in (ours, *rivals)),
                    f"{ours / max(rivals):.2f}",
                )
        finally:
            server.stop()
    console = Console(width=120)
    console.print(table)
    console.print(f"{JOBS} jobs; medians of {ROUNDS} rounds.")


if __name__ == "__main__":
    main()
