"""How long full weights take from publication to their first token, and what it costs the rest.

    python -m tests.bench.full

Ours: publish to the store, announce, the worker fetches, checks every byte, judges every tensor,
loads, and a new request gets its first token of the new version. Rival, side by side: read the
file, vLLM's own pause, reload and resume, first token.

Then the same while requests run. Lost is what did not end as it should have; prefilled again are
the tokens that they had by then; the gap is the longest time between two tokens of one of them.
"""

import asyncio
import logging
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import structlog
from rich.console import Console
from rich.table import Table
from vllm import SamplingParams

from service.broker import Broker
from service.settings import Settings
from service.weight_store import WeightStore
from tests.bench.swap import checkpoint
from tests.servers import Server
from tests.worker.full_checkpoints import make_full
from worker.embedder import EMBEDDED, Embedder
from worker.engine import Engine, weight_spans
from worker.main import Worker
from worker.settings import WorkerSettings

SIZES = ((512, 8), (1024, 12))
"""Hidden size and layers of the language model: some 30 and 190 million parameters."""
ROUNDS = 7
RUNNING = 8
PROMPT, NEW = 256, 256
"""Tokens of each request that runs meanwhile."""


@dataclass
class Asked:
    """A request that runs while weights change."""

    times: list[float] = field(default_factory=list)
    """When its tokens came."""
    versions: list[int] = field(default_factory=list)
    complete: bool = False

    async def run(self, engine: Engine) -> None:
        params = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True)

        def tick(_: str) -> bool:
            self.times.append(time.perf_counter())
            return False

        prompt = list(range(10, 10 + PROMPT))
        [written] = (await engine.generate(prompt, params, stop_check=tick)).outputs
        self.versions = [span.version for span in weight_spans(written, None)]
        self.complete = written.finish_reason == "length"


async def first_token(engine: Engine, version: int) -> None:
    params = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
    [written] = (await engine.generate(list(range(10, 40)), params)).outputs
    assert weight_spans(written, None)[0].version == version


class Bench:
    def __init__(self, engine: Engine, worker: Worker, broker: Broker, made: Path, store: Path):
        self._engine = engine
        self._worker = worker
        self._broker = broker
        self._made = made
        self._store = WeightStore(str(store))
        self._version = 0

    async def publish(self) -> tuple[float, float]:
        """When it was called, and when the worker served what was published."""
        self._version += 1
        folder = self._made.with_name("to-publish")  # the store takes the files as they are
        await asyncio.to_thread(shutil.copytree, self._made, folder)
        started = time.perf_counter()
        published = await asyncio.to_thread(
            self._store.publish, folder, self._version, "full", move=True
        )
        await self._broker.weights.announce(published)
        while self._worker.versions.current != self._version:
            await asyncio.sleep(0.0005)
        served = time.perf_counter()
        await asyncio.to_thread(shutil.rmtree, folder)
        await asyncio.to_thread(self._store.keep_newest, 2)
        return started, served

    async def ours(self) -> float:
        started, served = await self.publish()
        tidied = time.perf_counter()
        await first_token(self._engine, self._version)
        return served - started + time.perf_counter() - tidied

    async def rival(self) -> float:
        started = time.perf_counter()
        await asyncio.to_thread(lambda: [f.read_bytes() for f in self._made.glob("*.safetensors")])
        llm = self._engine._running()
        await llm.pause_generation(mode="keep")
        await llm.collective_rpc("reload_weights", kwargs={"weights_path": str(self._made)})
        await llm.resume_generation()
        await first_token(self._engine, self._version)
        return time.perf_counter() - started

    async def under_load(self) -> tuple[list[Asked], float, int]:
        """The requests, seconds from resuming until all had a token, tokens prefilled for it."""
        asked = [Asked() for _ in range(RUNNING)]
        running = asyncio.gather(*(request.run(self._engine) for request in asked))
        while min(len(request.times) for request in asked) < NEW // 8:
            await asyncio.sleep(0.005)
        _, resumed = await self.publish()
        await running
        tokens = sum(PROMPT + sum(t < resumed for t in request.times) for request in asked)
        went_on = max(next(t for t in request.times if t > resumed) for request in asked)
        return asked, went_on - resumed, tokens


async def measure(folder: Path, server: Server, table: Table) -> None:
    settings = Settings(redis_url=server.url)  # pyright: ignore[reportArgumentType]
    for hidden, layers in SIZES:
        server.flush()
        here = folder / str(hidden)
        model = checkpoint(here / "model", hidden, layers)
        made = make_full(str(model), here / "made", seed=1, parts=("language_model", "projector"))
        megabytes = sum(f.stat().st_size for f in made.glob("*.safetensors")) / 1e6
        engine = Engine(
            WorkerSettings(
                model=str(model),
                dtype="float32",
                enforce_eager=True,
                max_num_seqs=2 * RUNNING,
                gpu_memory_utilization=0.1,
                max_lora_rank=8,
            )
        )
        await engine.start()
        async with Broker.connect(settings) as broker:
            worker = Worker(broker, engine, Embedder(EMBEDDED), WorkerSettings())
            working = asyncio.create_task(worker.run())
            await first_token(engine, 0)
            bench = Bench(engine, worker, broker, made, here / "store")
            pairs = [(await bench.ours(), await bench.rival()) for _ in range(ROUNDS + 1)][1:]
            loads = [await bench.under_load() for _ in range(3)]
            worker.stop()
            await working
        engine.stop()
        requests = [request for asked, _, _ in loads for request in asked]
        gaps = [[b - a for a, b in pairwise(request.times)] for request in requests]
        table.add_row(
            f"{megabytes:.0f}",
            f"{statistics.median(a for a, _ in pairs) * 1e3:.0f}",
            f"{statistics.median(b for _, b in pairs) * 1e3:.0f}",
            f"{statistics.median(a / b for a, b in pairs):.2f}",
            str(len(requests)),
            str(sum(len(request.versions) > 1 for request in requests)),
            str(sum(not request.complete for request in requests)),
            f"{statistics.median(tokens for _, _, tokens in loads):.0f}",
            f"{statistics.median(seconds for _, seconds, _ in loads) * 1e3:.0f}",
            f"{statistics.median(gap for of_one in gaps for gap in of_one) * 1e3:.1f}",
            f"{max(gap for of_one in gaps for gap in of_one) * 1e3:.0f}",
        )


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    table = Table(
        "MB",
        "ours, ms",
        "file + reload, ms",
        "ratio",
        "requests meanwhile",
        "of two versions",
        "lost",
        "tokens prefilled again",
        "in ms",
        "gap at rest, ms",
        "longest gap, ms",
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = Server("valkey", folder / "server")
        server.start()
        try:
            asyncio.run(measure(folder, server, table))
        finally:
            server.stop()
    console = Console(width=150)
    console.print(table)
    console.print(
        f"Medians of {ROUNDS}; ratios pair by pair; {RUNNING} requests in each of 3 swaps."
    )


if __name__ == "__main__":
    main()
