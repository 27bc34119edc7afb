"""Each family's checkpoint, made once; each family's engine, started once, one after the other."""

from collections.abc import AsyncIterator, Callable
from functools import cache
from pathlib import Path

import pytest

from tests.families import served as serving
from tests.families.family import FAMILIES
from tests.families.served import Served


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's checkpoint, by name."""

    @cache
    def make(name: str) -> Path:
        return FAMILIES[name].make(tmp_path_factory.mktemp("families") / name)

    return make


SERVED = [name for name, family in FAMILIES.items() if not family.recurrent]


@pytest.fixture(scope="session", params=SERVED)
async def served(
    request: pytest.FixtureRequest,
    checkpoint: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Served]:
    """A family in float32, which those with recurrent layers are not to be had in on a CPU."""
    family = FAMILIES[request.param]
    started = await serving.start(
        family, checkpoint(family.name), tmp_path_factory.mktemp(family.name)
    )
    yield started
    started.engine.stop()
