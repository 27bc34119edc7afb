"""What a job costs when many others are queued, and what memory jobs and pairs take.

    python -m tests.bench.depth        (the million takes a few minutes to enqueue, and 2 GB)

Two namespaces on one server: one holds a thousand queued jobs, the other is filled up to a million.
At each depth, single calls, in turns on both: enqueue, and claim and finish with a pair.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from service.broker import Broker
from service.schemas import BdhsRequest, RunSettings
from service.settings import Settings
from tests.servers import Server
from tests.service.samples import bdhs_result, png

DEPTHS = (1_000, 100_000, 1_000_000)
ROUNDS = 2000
TOGETHER = 500
RUNS = ("a", "b")


class Queue:
    """A namespace, and how many jobs are queued in it."""

    def __init__(self, broker: Broker, image: str) -> None:
        self.broker = broker
        self.depth = 0
        self._image = image

    async def enqueue(self) -> None:
        request = BdhsRequest(
            prompt="Describe the image.",
            images=[self._image],
            reference="There is a red circle in the top left. There is a blue square below it.",
            run=RUNS[self.depth % len(RUNS)],
        )
        self.depth += 1
        await self.broker.jobs.enqueue(request)

    async def finish(self) -> None:
        [claim] = await self.broker.claims.claim("w", 1, block_s=1)
        assert await self.broker.claims.finish(claim, bdhs_result(claim))
        self.depth -= 1

    async def fill(self, depth: int, progress: Progress) -> None:
        task = progress.add_task(f"enqueueing up to {depth:,}", total=depth)
        while self.depth < depth:
            count = min(TOGETHER, depth - self.depth)
            await asyncio.gather(*(self.enqueue() for _ in range(count)))
            progress.update(task, completed=self.depth)


async def medians(calls: Sequence[Callable[[], Awaitable[None]]]) -> list[float]:
    """Milliseconds of each, which are called in turns: whatever else the machine does, it does to
    all of them."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, seconds in zip(calls, times, strict=True):
            start = time.perf_counter()
            await call()
            seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) * 1e3 for seconds in times]


async def used_memory(broker: Broker) -> int:
    return (await broker.connection.redis.info("memory"))["used_memory"]


async def measure(shallow: Queue, deep: Queue, console: Console) -> None:
    for queue in (shallow, deep):
        for run in RUNS:
            await queue.broker.runs.put(run, RunSettings(window=1_000_000, keep=1_000_000))
    table = Table(
        "jobs queued", "enqueue, ms", "ratio", "claim + finish, ms", "ratio", "bytes a queued job"
    )
    with Progress(console=console, transient=True) as progress:
        await shallow.fill(DEPTHS[0], progress)
        for depth in DEPTHS:
            before, there = await used_memory(deep.broker), deep.depth
            await deep.fill(depth, progress)
            size = (await used_memory(deep.broker) - before) / (depth - there)
            calls = (shallow.enqueue, shallow.finish, deep.enqueue, deep.finish)
            least_enqueue, least_finish, enqueue, finish = await medians(calls)
            table.add_row(
                f"{depth:,}",
                f"{enqueue:.3f}",
                f"{enqueue / least_enqueue:.2f}",
                f"{finish:.3f}",
                f"{finish / least_finish:.2f}",
                f"{size:.0f}",
            )
    console.print(table)
    console.print(f"Medians of {ROUNDS} calls; ratios to 1,000 queued, called in turns with it.")
    await memory(deep.broker, console)


async def memory(broker: Broker, console: Console) -> None:
    redis, key = broker.connection.redis, broker.connection.key
    run = await broker.runs.get(RUNS[0])
    assert run
    log = await redis.memory_usage(key("run", RUNS[0], "log"), samples=0)
    [last] = await redis.zrange(key("ended"), -1, -1)
    ended = await redis.memory_usage(key("job", last), samples=0)
    console.print(f"A pair in its run's log takes {log / run.pairs:.0f} bytes; ")
    console.print(f"an ended job with its result {ended} bytes, while it is kept.")


async def run(server: Server, console: Console) -> None:
    names = ("shallow", "deep")
    fields = {"redis_url": server.url, "max_queue_depth": 10**9}
    settings = [Settings.model_validate(fields | {"namespace": name}) for name in names]
    async with Broker.connect(settings[0]) as first, Broker.connect(settings[1]) as second:
        # A rewrite of the AOF would fall into one round and not into another.
        await first.connection.redis.config_set("auto-aof-rewrite-percentage", 0)
        shallow, deep = [Queue(b, await b.images.put(png())) for b in (first, second)]
        await measure(shallow, deep, console)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = Server("valkey", Path(folder))
        server.start()
        try:
            asyncio.run(run(server, Console(width=120)))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
