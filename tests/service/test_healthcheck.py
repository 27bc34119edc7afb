"""The containers' health check."""

import subprocess
import sys

from service.settings import Settings
from tests.servers import Server, free_port
from tests.service.http import served


def healthcheck(url: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "service.healthcheck", url], capture_output=True, text=True
    )
    return done.returncode, done.stderr


def test_it_ends_as_the_answer_is(own_server: Server) -> None:
    with served(Settings.model_validate({"redis_url": own_server.url})) as url:
        assert healthcheck(f"{url}/health/ready") == (0, "")
        own_server.kill()
        status, reason = healthcheck(f"{url}/health/ready")
        assert status == 1
        assert reason.startswith("503: ")
        assert healthcheck(f"{url}/health/live") == (0, "")


def test_nobody_there() -> None:
    url = f"http://127.0.0.1:{free_port()}/"
    status, reason = healthcheck(url)
    assert status == 1
    assert reason.startswith(url)
