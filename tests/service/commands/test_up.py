"""`prefstream up`: everything starts, answers, and is gone afterwards, however it ends."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.processes import Up, alive_after_a_while, users_environment, wait_until_up
from tests.servers import free_port
from tests.worker import checkpoints


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.llava(tmp_path_factory.mktemp("model"))


@pytest.fixture
def up(model: Path, tmp_path: Path) -> Iterator[Up]:
    up = Up(model, tmp_path / "data")
    yield up
    up.close()


def test_ctrl_c_stops_all_of_it(up: Up) -> None:
    up.wait_until_ready()
    family = up.family()
    assert len(family) >= 4  # valkey, service, worker, and the worker's engine
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(90) == 0, up.said.read_text()
    assert up.url in up.said.read_text()
    assert '"cache_gib": ' in (up.data / "worker.log").read_text()  # of what is free, and no more
    assert alive_after_a_while(family) == []


def test_nothing_is_left_behind_when_it_is_killed(up: Up) -> None:
    up.wait_until_ready()
    family = up.family()
    up.process.kill()
    assert alive_after_a_while(family) == []


def test_ctrl_c_stops_a_command_that_works_in_it(tmp_path: Path) -> None:
    said = tmp_path / "said"
    with said.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "demo", "--out", str(tmp_path / "out")],
            stdout=output,
            stderr=output,
        )
    try:
        wait_until_up(process, said, tmp_path / "out" / "work" / "worker.log")
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 2
    finally:
        process.kill()
        process.wait()
    assert said.read_text().rstrip().endswith("Interrupted.")
    assert alive_after_a_while(family) == []


def run_up(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", "up", *arguments],
        env=users_environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run_up("--port", port, "--data", str(tmp_path))
    assert ended.returncode == 2
    assert f"Port {port}" in ended.stderr
    assert "--port" in ended.stderr


def test_a_model_that_is_not_supported_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}'
    )
    ended = run_up("--model", str(tmp_path), "--port", str(free_port()), "--data", str(tmp_path))
    assert ended.returncode == 2
    assert "LlamaForCausalLM" in ended.stderr
    assert "LlavaNextForConditionalGeneration" in ended.stderr


def test_a_model_that_the_memory_does_not_hold_is_refused_at_start(
    model: Path, tmp_path: Path
) -> None:
    big = shutil.copytree(model, tmp_path / "big")
    config = json.loads((big / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 10**9
    (big / "config.json").write_text(json.dumps(config))
    ended = run_up("--model", str(big), "--port", str(free_port()), "--data", str(tmp_path / "up"))
    assert ended.returncode == 2
    said = " ".join(ended.stderr.split())
    assert re.search(r"big needs [\d.]+ GiB of memory and [\d.]+ GiB are free", said)
    assert "PREFSTREAM_WORKER_MAX_MODEL_LEN" in said


@pytest.mark.parametrize("command", ["serve", "work"])
def test_without_a_redis_address_a_part_says_what_to_set(command: str) -> None:
    without = {k: v for k, v in os.environ.items() if not k.startswith("PREFSTREAM_")}
    ended = subprocess.run(
        [sys.executable, "-m", "service", command],
        env=without,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert "PREFSTREAM_REDIS_URL" in ended.stderr
    assert "Traceback" not in ended.stderr
