"""How long a new version takes from publication to its first token, and what it does to the rest.

    python -m tests.bench.swap

Ours: publish to the store, announce, the worker fetches, checks, loads, and a request gets the new
version's first token. Rival, side by side: read the files, vLLM's own `add_lora`, first token.
The gap is the longest time between two tokens of a request that runs all the while.
"""

import asyncio
import logging
import statistics
import tempfile
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import structlog
import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlavaNextConfig, LlavaNextForConditionalGeneration
from vllm import SamplingParams
from vllm.lora.request import LoRARequest

from service.broker import Broker
from service.settings import Settings
from service.weight_store import WeightStore
from tests.servers import Server
from tests.worker import checkpoints
from tests.worker.adapters import make_adapter
from worker.embedder import EMBEDDED, Embedder
from worker.engine import Engine
from worker.main import Worker
from worker.settings import WorkerSettings

RANKS = (8, 128)
ROUNDS = 7
HIDDEN, LAYERS = 512, 8
"""Some 30 million parameters: an adapter of rank 128 is 24 MB."""


def checkpoint(folder: Path, hidden: int = HIDDEN, layers: int = LAYERS) -> Path:
    """The test checkpoint with a larger language model."""
    checkpoints.llava_next(folder)
    config = LlavaNextConfig.from_pretrained(folder)
    text = config.text_config.to_dict() | {
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "head_dim": hidden // 8,
        "max_position_embeddings": 4096,
    }
    config.text_config = LlamaConfig(**text)
    torch.manual_seed(0)
    LlavaNextForConditionalGeneration(config).save_pretrained(folder)
    return folder


async def first_token(engine: Engine, lora: LoRARequest | None) -> None:
    params = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
    await engine.generate(list(range(10, 40)), params, lora=lora)


async def ours(
    worker: Worker, engine: Engine, broker: Broker, store: WeightStore, adapter: Path, version: int
) -> float:
    started = time.perf_counter()
    published = await asyncio.to_thread(store.publish, adapter, version, "lora")
    await broker.weights.announce(published)
    while worker.versions.current != version:
        await asyncio.sleep(0.0005)
    await first_token(engine, worker.versions.lora_request(version))
    return time.perf_counter() - started


async def rival(engine: Engine, adapter: Path, version: int) -> float:
    started = time.perf_counter()
    await asyncio.to_thread(lambda: [f.read_bytes() for f in adapter.iterdir() if f.is_file()])
    lora = LoRARequest(f"rival-{version}", version, str(adapter))
    await engine.add_lora(lora)
    await first_token(engine, lora)
    seconds = time.perf_counter() - started
    await engine.remove_lora(version)
    return seconds


class Ticker:
    """A request that runs all the while; remembers when its tokens came."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self.times: list[float] = []

    async def run(self) -> None:
        while True:
            params = SamplingParams(temperature=0, max_tokens=4000, ignore_eos=True)
            await self._engine.generate(list(range(10, 40)), params, stop_check=self._tick)

    def _tick(self, _: str) -> bool:
        self.times.append(time.perf_counter())
        return False

    def gaps(self, since: float) -> list[float]:
        times = [t for t in self.times if t >= since]
        return [b - a for a, b in pairwise(times)]


async def measure(folder: Path, server: Server, console: Console) -> None:
    model = checkpoint(folder / "model")
    engine = Engine(
        WorkerSettings(
            model=str(model),
            dtype="float32",
            enforce_eager=True,
            max_num_seqs=8,
            gpu_memory_utilization=0.1,
            max_lora_rank=128,
            max_loras=3,
        )
    )
    await engine.start()
    settings = Settings(redis_url=server.url)
    table = Table(
        "rank",
        "MB",
        "ours, ms",
        "files + add_lora, ms",
        "ratio",
        "gap at rest, ms",
        "longest gap, ms",
    )
    async with Broker.connect(settings) as broker:
        worker = Worker(broker, engine, Embedder(EMBEDDED), WorkerSettings())
        running = asyncio.create_task(worker.run())
        await first_token(engine, None)
        version = 0
        for rank in RANKS:
            adapter = make_adapter(str(model), folder / f"rank-{rank}", seed=rank, rank=rank)
            store = WeightStore(str(folder / f"store-{rank}"))
            megabytes = sum(f.stat().st_size for f in adapter.iterdir()) / 1e6
            pairs: list[tuple[float, float]] = []
            for _ in range(ROUNDS + 1):
                version += 1
                a = await ours(worker, engine, broker, store, adapter, version)
                pairs.append((a, await rival(engine, adapter, 100_000 + version)))
            pairs = pairs[1:]  # the first warms up
            ticker = Ticker(engine)
            ticking = asyncio.create_task(ticker.run())
            while len(ticker.times) < 200:
                await asyncio.sleep(0.01)
            rest = statistics.median(ticker.gaps(ticker.times[100]))
            longest: list[float] = []
            for _ in range(ROUNDS):
                version += 1
                since = time.perf_counter()
                await ours(worker, engine, broker, store, adapter, version)
                longest.append(max(ticker.gaps(since - 0.05), default=0.0))
            ticking.cancel()
            with suppress(asyncio.CancelledError):
                await ticking
            table.add_row(
                str(rank),
                f"{megabytes:.1f}",
                f"{statistics.median(a for a, _ in pairs) * 1e3:.1f}",
                f"{statistics.median(b for _, b in pairs) * 1e3:.1f}",
                f"{statistics.median(a / b for a, b in pairs):.2f}",
                f"{rest * 1e3:.1f}",
                f"{max(longest) * 1e3:.1f}",
            )
        worker.stop()
        await running
    engine.stop()
    console.print(table)
    console.print(f"Medians of {ROUNDS}; ratios pair by pair; the longest gap of {ROUNDS} swaps.")


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = Server("valkey", folder / "server")
        server.start()
        try:
            asyncio.run(measure(folder, server, Console(width=120)))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
