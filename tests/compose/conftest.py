"""The real thing, built and started once. Only `make compose-test` asks for it."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.compose.deployment import House, NoDocker

collect_ignore_glob = [] if os.environ.get("PREFSTREAM_TEST_COMPOSE") == "1" else ["test_*.py"]


@pytest.fixture(scope="session")
def house() -> Iterator[House]:
    try:
        house = House()
    except NoDocker as reason:
        pytest.fail(str(reason), pytrace=False)
    house.compose("down", "--volumes", "--remove-orphans")  # what an interrupted test left
    house.compose("build")
    try:
        house.compose("up", "--detach", "--no-build")
        yield house
    except subprocess.CalledProcessError as error:
        pytest.fail(f"{error}\n{house.compose('logs', '--tail', '50')}", pytrace=False)
    finally:
        house.compose("down", "--volumes", "--remove-orphans")
