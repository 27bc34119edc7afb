"""`prefstream settings`, on Redis and over HTTP; and who starts on data of another layout."""

import os
import subprocess
import sys

import pytest

from service.broker import Broker
from service.settings import Settings
from tests.servers import Server
from tests.service.commands.running import prefstream
from tests.service.http import served


@pytest.mark.parametrize("over_http", [False, True])
def test_settings_are_shown_and_changed(server: Server, over_http: bool) -> None:
    with served(Settings.model_validate({"redis_url": server.url, "max_images": 3})) as url:
        at = ("--url", url) if over_http else ()
        shown = prefstream(server, "settings", "show", *at)
        assert shown.exit_code == 0, shown.output
        lines = {line.split()[1]: line.split()[3] for line in shown.output.splitlines()[3:-1]}
        assert (lines["max_images"], lines["lease_s"]) == ("3", "30.0")
        changed = prefstream(server, "settings", "set", "lease_s=45", "max_images=4", *at)
        assert changed.exit_code == 0, changed.output
        shown = prefstream(server, "settings", "show", *at)
        assert "45" in next(line for line in shown.output.splitlines() if " lease_s " in line)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("lease_s=soon", "lease_s: Input should be a valid number"),
        ("lease_s=-1", "lease_s: Input should be greater than 0"),
        ("lease=5", "lease: Extra inputs are not permitted"),
        ("durability=never", "'never' is none of server, fsync"),
        ("lease_s", "lease_s: Input should be a valid number"),
    ],
)
def test_what_is_no_setting_changes_nothing(server: Server, change: str, reason: str) -> None:
    ended = prefstream(server, "settings", "set", "max_images=2", change)
    assert ended.exit_code == 2
    assert reason in ended.output
    assert "The settings are durability, max_queue_depth, lease_s" in ended.output
    assert "layout" not in prefstream(server, "settings", "show").output


async def test_serve_ends_on_data_of_another_layout(server: Server, broker: Broker) -> None:
    await broker.settings()
    await broker.connection.redis.hset(broker.connection.key("settings"), "layout", "2")
    ended = subprocess.run(  # noqa: ASYNC221
        [sys.executable, "-m", "service", "serve", "--port", "1"],
        env=os.environ | {"PREFSTREAM_REDIS_URL": server.url},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert "have layout 2, and this prefstream" in ended.stderr
    assert "Traceback" not in ended.stderr
