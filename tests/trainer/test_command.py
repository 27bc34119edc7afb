"""`prefstream train` as people start it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from service.client import Client
from tests import hub_checkpoints
from tests.servers import Server
from tests.trainer import pairs
from tests.trainer.conftest import Configure
from trainer.command import train
from trainer.stream import journal
from trainer.weights import checkpoint

COMMAND = [
    sys.executable,
    "-c",
    "import typer; from trainer.command import train; typer.run(train)",
]


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(train)
    return app


def test_the_command_is_light_to_import():
    heavy = "import sys, trainer.command; sys.exit(any(m in sys.modules for m in ('torch', 'trl')))"
    assert subprocess.run([sys.executable, "-c", heavy], timeout=60).returncode == 0


def test_bad_settings_are_named(app: typer.Typer, tmp_path: Path):
    config = tmp_path / "train.toml"
    config.write_text("lora_rank = 0\n")
    result = CliRunner().invoke(app, ["--config", str(config)])
    assert result.exit_code == 2
    assert "lora_rank: Input should be greater than or equal to 1" in result.output


@pytest.mark.parametrize(
    ("exists", "reason"), [(True, "has no chat template"), (False, "there is no such folder here")]
)
def test_a_model_that_cannot_be_trained_on_is_told_so(
    server: Server, tmp_path: Path, exists: bool, reason: str
):
    """Before its weights are read: there are none."""
    folder = tmp_path / "checkpoint"
    if exists:
        hub_checkpoints.llava_15(folder, template="none", weights=False)
    command = [*COMMAND, "--url", server.url, "--run", "r", "--model", str(folder)]
    command += ["--output", str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 2, ended.stderr
    assert reason in ended.stderr
    assert "Traceback" not in ended.stderr


def test_ctrl_c_saves_acknowledges_and_leaves(server: Server, configure: Configure, model: Path):
    made = pairs.append(server.url, 10)
    output = configure().output
    config = output.parent / "train.toml"
    config.write_text(
        "lora_rank = 4\nlora_alpha = 8\nbatch_size = 4\ngradient_checkpointing = false\n"
        "publish_every = 0\n"
    )
    command = [*COMMAND, "--url", server.url, "--run", "r", "--model", str(model)]
    command += ["--output", str(output), "--config", str(config)]
    lines: list[str] = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if "waiting for pairs" in line:  # two steps are done; two pairs are left over
                process.send_signal(signal.SIGINT)
    assert process.returncode == 0, "".join(lines)
    newest = checkpoint.newest(output)
    assert newest is not None
    assert newest.name == "checkpoint-2"
    assert [pair for _, step in journal.read(output) for pair in step] == made[:8]
    with Client(server.url) as client:
        [group] = client.run("r").groups
    assert (group.acknowledged, group.leased, group.waiting + group.returned) == (8, 0, 2)
    assert list((output / "runs").rglob("events.out.tfevents.*"))
