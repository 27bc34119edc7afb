"""An engine on the shipped policy, which writes sentences."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from tests.worker.preloaded import preloaded
from worker.engine import Engine
from worker.settings import WorkerSettings


@asynccontextmanager
async def toy_engine() -> AsyncGenerator[Engine]:
    """Started, in float32, and stopped at the end."""
    engine = Engine(
        WorkerSettings(
            model="toy",
            dtype="float32",
            enforce_eager=True,
            gpu_memory_utilization=0.1,
            max_lora_rank=16,
        )
    )
    with preloaded():
        await engine.start()
    try:
        yield engine
    finally:
        engine.stop()
