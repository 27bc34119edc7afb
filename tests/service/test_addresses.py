"""Addresses that cannot be right are refused without a traceback, and without their password."""

import os
import subprocess
import sys

import pytest

from service.addresses import check_redis_url, without_password
from service.settings import Settings
from tests.servers import Server
from tests.service.commands.running import prefstream

WRONG = (
    "redis://user:sec#ret@127.0.0.1:1/0",
    "redis://:12#34sec@127.0.0.1:1/0",
    "redis://:sec/ret@127.0.0.1:1/0",
    "redis://:s@sec/r?et@127.0.0.1:1/0",
    "redis://user:12?sec@127.0.0.1:1/0",
    "redis://user:sec[ret@127.0.0.1:1/0",
    "redis://user:secret@127.0.0.1:port/0",
    "redis://user:secret@127.0.0.1:1/base",
    "redis+cluster://user:secret@127.0.0.1:1/0",
    " redis://user:secret@127.0.0.1:1/0",
)


@pytest.mark.parametrize("url", WRONG)
def test_an_address_that_cannot_be_right_ends_commands(
    server: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFSTREAM_REDIS_URL", url)
    for arguments in (("jobs", "list", "--url", url), ("serve",), ("work",)):
        ended = prefstream(server, *arguments)
        assert ended.exit_code == 2, ended.output
        assert "sec" not in ended.output
        assert "Traceback" not in ended.output
    with pytest.raises(ValueError, match="must") as refused:
        Settings()
    assert "sec" not in str(refused.value)


def test_how_to_write_a_password_is_said() -> None:
    with pytest.raises(ValueError, match="percent-encoded, %23 for #"):
        check_redis_url(WRONG[0])


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:6379/0",
        "redis://host",
        "redis://:p%23ss%2Fword@[::1]:6379",
        "rediss://user:p@ss@host/3?ssl_cert_reqs=none&client_name=a@b",
        "unix:///tmp/a#b@c.sock?db=1",
    ],
)
def test_what_can_be_right_is_taken(url: str) -> None:
    check_redis_url(url)
    assert "p%23" not in without_password(url)


@pytest.mark.parametrize("command", ["jobs list", "runs", "weights list", "settings show"])
def test_a_redis_that_is_down_is_one_line(command: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "service", *command.split()],
        env=os.environ | {"PREFSTREAM_URL": "redis://user:secret@127.0.0.1:1/0"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    [line] = ended.stderr.splitlines()
    assert line.startswith("Cannot reach redis://…@127.0.0.1:1/0: Nothing answers at the Redis")
