"""How much of generation and training overlaps, when each has hardware of its own.

    python -m tests.bench.overlap

Generating and training are waiting here, as if on two GPUs; the rest is real: server, service,
client, the trainer's stream, ledger and publisher, the weight store. A job waits for as long as
its answer is long (drawn once, the same for all columns), so many at once; a trainer waits for
each step, and publishes; the generator goes on while it takes the new version.

Compared with: the ideal pipeline, which loses nothing and takes max(generate, train) a step; and
the loop in one process, as TRL's online DPO does it: sync the weights, generate the step's batch,
train on it.
"""

import asyncio
import logging
import random
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
from rich.console import Console
from rich.table import Table

from service.broker import Broker, Claim
from service.checkpoints.input_processor import load_input_processor
from service.checkpoints.settings import InputSettings
from service.client import AsyncClient, Client, image_data
from service.schemas import BdhsRequest, RunSettings
from service.settings import Settings
from service.weight_store import fetch
from tests.servers import Server
from tests.service.http import served
from tests.service.samples import bdhs_result, png, serve
from trainer.stream.data_loader import PairDataLoader
from trainer.stream.ledger import Ledger
from trainer.stream.online import OnlineRows
from trainer.waiting import Waiter
from trainer.weights.publish import ADAPTER_FILES, Publisher

SLOTS = 16
"""Jobs that are generated at once."""
BATCH = 16
SYNC_S = 0.1
"""To take new weights."""
PUBLISH_EVERY = 4
STEPS, WARM_UP = 32, 6
WINDOW = 64
FEEDERS = 16


@dataclass(frozen=True)
class Case:
    name: str
    generate_s: float
    """Mean of a job; it may take half of it or half more."""
    train_s: float
    """Of a step."""

    def durations(self) -> list[float]:
        draw = random.Random(self.name)
        return [self.generate_s * draw.uniform(0.5, 1.5) for _ in range(STEPS * BATCH * 2)]


CASES = (
    Case("balanced", generate_s=1.0, train_s=1.0),
    Case("generation is slower", generate_s=1.2, train_s=0.6),
    Case("training is slower", generate_s=0.6, train_s=1.2),
)


class Generator:
    """A worker whose jobs wait."""

    def __init__(self, broker: Broker, durations: list[float], folder: Path):
        self._broker = broker
        self._durations = iter(durations)
        self._folder = folder
        self._free = asyncio.Semaphore(SLOTS)
        self._version = 0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._adopt())
            while True:
                await self._free.acquire()
                free = 1
                while not self._free.locked():
                    await self._free.acquire()
                    free += 1
                claims = await self._broker.claims.claim("w", free, block_s=1)
                for _ in range(free - len(claims)):
                    self._free.release()
                for claim in claims:
                    tasks.create_task(self._work_on(claim))

    async def _work_on(self, claim: Claim) -> None:
        version = self._version
        await self._broker.images.get(claim.request.images[0])
        await asyncio.sleep(next(self._durations))
        self._free.release()
        assert await self._broker.claims.finish(claim, bdhs_result(claim, version))

    async def _adopt(self) -> None:
        while True:
            await serve(self._broker, self._version, "w")
            newest = await self._broker.weights.wait_newer(self._version, 1.0)
            if newest is not None:
                await asyncio.to_thread(fetch, newest, self._folder / str(newest.version))
                await asyncio.sleep(SYNC_S)
                self._version = newest.version


async def feed(url: str, run: str) -> None:
    """Keeps the run's window full."""
    image = image_data(png())
    async with AsyncClient(url, retry_for_s=600) as client:

        async def post() -> None:
            while True:
                await client.bdhs(
                    BdhsRequest(prompt="What?", images=[image], reference="A red square.", run=run)
                )

        async with asyncio.TaskGroup() as tasks:
            for _ in range(FEEDERS):
                tasks.create_task(post())


def train(url: str, run: str, case: Case, folder: Path) -> tuple[list[float], list[float]]:
    """When each step ended, and how stale its pairs were."""
    stop = threading.Event()
    with Client(url) as client:
        ledger = Ledger()
        waiter = Waiter(stop)
        inputs = load_input_processor("toy", InputSettings())
        pairs = OnlineRows(client, ledger, waiter, inputs, run=run, group="trainer", lease_s=60)
        stream = PairDataLoader(
            pairs, steps=STEPS, batch_size=BATCH, device_batch_size=BATCH, read_ahead=1
        )
        publisher = Publisher(
            client, waiter, str(folder / "store"), run=run, keep=2, wait="none", wait_s=60
        )
        stream.start(lambda pairs: {"pairs": pairs})
        ended: list[float] = []
        staleness: list[float] = []
        for step, _ in enumerate(stream, 1):
            time.sleep(case.train_s)
            assert stream.current is not None
            ledger.mark_used(stream.current.pair_ids)
            staleness.append(stream.metrics().get("pairs/staleness", 0.0))
            if step % PUBLISH_EVERY == 0:
                ledger.mark_saved(ledger.unacknowledged())  # a checkpoint
                ledger.acknowledge()
                adapter = folder / f"adapter-{step}"
                adapter.mkdir()
                for name in ADAPTER_FILES:
                    (adapter / name).write_bytes(bytes(2**16))
                publisher.publish(adapter, step)
            ended.append(time.perf_counter())
        stop.set()
        stream.join()
    return ended, staleness


async def pipeline(case: Case, url: str, broker: Broker, folder: Path) -> tuple[float, float, int]:
    """Seconds a step, mean staleness, pairs set aside as stale."""
    run = case.name.replace(" ", "-")
    await broker.runs.put(run, RunSettings(window=WINDOW, max_staleness=4))
    sides = asyncio.gather(Generator(broker, case.durations(), folder).run(), feed(url, run))
    ended, staleness = await asyncio.to_thread(train, url, run, case, folder)
    sides.cancel()
    with suppress(asyncio.CancelledError):
        await sides
    made = await broker.runs.get(run)
    assert made is not None
    [group] = made.groups
    seconds = (ended[-1] - ended[WARM_UP - 1]) / (STEPS - WARM_UP)
    return seconds, sum(staleness) / len(staleness), group.stale


async def serial(case: Case) -> float:
    """Seconds a step of the loop in one process."""
    durations = case.durations()
    started = time.perf_counter()
    for step in range(STEPS - WARM_UP):
        await asyncio.sleep(SYNC_S)
        batch = durations[step * BATCH :][:BATCH]
        await asyncio.gather(*(asyncio.sleep(seconds) for seconds in batch))
        await asyncio.sleep(case.train_s)
    return (time.perf_counter() - started) / (STEPS - WARM_UP)


async def measure(folder: Path, server: Server) -> Table:
    settings = Settings(redis_url=server.url)  # pyright: ignore[reportArgumentType]
    table = Table(
        "case",
        "generate, s",
        "train, s",
        "ideal, pairs/s",
        "ours, pairs/s",
        "of the ideal",
        "one process, pairs/s",
        "ours to it",
        "staleness",
        "stale",
    )
    with served(settings) as url:
        async with Broker.connect(settings) as broker:
            for number, case in enumerate(CASES):
                server.flush()
                where = folder / str(number)
                where.mkdir()
                ours, staleness, dropped = await pipeline(case, url, broker, where)
                alone = await serial(case)
                durations = case.durations()
                generate = sum(durations) / len(durations) * BATCH / SLOTS
                ideal = max(generate, case.train_s)
                table.add_row(
                    case.name,
                    f"{generate:.2f}",
                    f"{case.train_s:.2f}",
                    f"{BATCH / ideal:.2f}",
                    f"{BATCH / ours:.2f}",
                    f"{ideal / ours:.3f}",
                    f"{BATCH / alone:.2f}",
                    f"{alone / ours:.2f}",
                    f"{staleness:.2f}",
                    str(dropped),
                )
    return table


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = Server("valkey", folder / "server")
        server.start()
        try:
            table = asyncio.run(measure(folder, server))
        finally:
            server.stop()
    console = Console(width=130)
    console.print(table)
    console.print(
        f"{STEPS - WARM_UP} steps of {BATCH} pairs each, after {WARM_UP}; {SLOTS} jobs at once; "
        f"weights every {PUBLISH_EVERY} steps (one process: every step), {SYNC_S} s to take them."
    )


if __name__ == "__main__":
    main()
