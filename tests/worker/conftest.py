"""Real engines on tiny checkpoints, started once a session."""

import os
from collections.abc import AsyncIterator

import pytest

from service.settings import Settings
from tests.servers import Server
from tests.worker import checkpoints, vision_tower
from tests.worker.toy_engine import toy_engine
from worker.embedder import EMBEDDED, Embedder
from worker.engine import Engine
from worker.settings import WorkerSettings

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture
def settings(server: Server) -> Settings:
    """One server is enough for tests of what a worker does."""
    return Settings(redis_url=server.url, lease_s=30, retry_base_s=0)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    return Embedder(EMBEDDED)


@pytest.fixture(scope="session")
async def engine(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Engine]:
    """An engine in float32 on a random LLaVA-NeXT. tests/families has what families differ in."""
    folder = checkpoints.llava_next(tmp_path_factory.mktemp("llava_next"))
    engine = Engine(
        WorkerSettings(
            model=str(folder),
            dtype="float32",
            enforce_eager=True,
            max_num_seqs=32,
            gpu_memory_utilization=0.1,
            max_lora_rank=16,
            engine_args={"worker_extension_cls": vision_tower.EXTENSION},
        )
    )
    await engine.start()
    yield engine
    engine.stop()


@pytest.fixture(scope="session")
async def toy() -> AsyncIterator[Engine]:
    """The shipped policy, which writes sentences."""
    async with toy_engine() as engine:
        yield engine
