"""The real thing, built and started once. Only `make compose-test` asks for it."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.compose.deployment import Deployment, NoDocker

collect_ignore_glob = [] if os.environ.get("PREFSTREAM_TEST_COMPOSE") == "1" else ["test_*.py"]


@pytest.fixture(scope="session")
def deployment() -> Iterator[Deployment]:
    try:
        deployment = Deployment()
    except NoDocker as reason:
        pytest.fail(str(reason), pytrace=False)
    deployment.compose("down", "--volumes", "--remove-orphans")  # what an interrupted test left
    deployment.compose("build")
    try:
        deployment.compose("up", "--detach", "--no-build")
        yield deployment
    except subprocess.CalledProcessError as error:
        pytest.fail(f"{error}\n{deployment.compose('logs', '--tail', '50')}", pytrace=False)
    finally:
        deployment.compose("down", "--volumes", "--remove-orphans")
