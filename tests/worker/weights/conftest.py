"""What a worker adopts weights with, and where they are published."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.weight_store import WeightStore
from worker.engine import Engine
from worker.weights.versions import WeightVersions


@pytest.fixture
async def versions(engine: Engine) -> AsyncIterator[WeightVersions]:
    versions = WeightVersions(engine)
    yield versions
    if not engine.alive:
        await engine.restart()
    if versions.kind == "full":
        await engine.load_weights(Path(engine.model), 0)
    for version in range(1, 60):
        await engine.remove_lora(version)
    versions.close()


@pytest.fixture
def store(tmp_path: Path) -> WeightStore:
    return WeightStore(str(tmp_path / "store"))
