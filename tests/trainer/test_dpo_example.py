"""The loop of the docs in plain PyTorch, run as a user would."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prefstream import Client, PairRequest, RunSettings, image_data
from service.settings import Settings
from tests.servers import Server
from tests.service.http import served
from trainer.toy import CHECKPOINT
from trainer.toy.dataset import examples, png

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "dpo_loop.py"
STEPS, BATCH = 3, 4


def test_it_learns_and_acknowledges(server: Server, tmp_path: Path) -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 60, "as the docs say"
    with served(Settings.model_validate({"redis_url": server.url})) as url, Client(url) as client:
        client.put_run("r", RunSettings())
        for item in examples(STEPS * BATCH, kinds=("caption",)):
            pair = PairRequest(
                prompt=item.prompt,
                images=[image_data(png(item))],
                chosen=item.reference,
                rejected="There is a grey dog.",
            )
            client.append("r", pair)
        done = subprocess.run(
            [sys.executable, EXAMPLE, str(CHECKPOINT), "r", url, str(STEPS)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=os.environ
            | {"OMP_NUM_THREADS": "1"},  # two would wait for each other on busy cores
            timeout=280,
        )
        assert done.returncode == 0, done.stderr
        losses = [float(line.split()[-1]) for line in done.stdout.splitlines()]
        assert losses[0] == pytest.approx(math.log(2), abs=1e-4), "policy and reference are equal"
        assert losses[-1] < losses[0]
        assert (tmp_path / "checkpoint" / "model.safetensors").exists()
        assert client.run("r").groups[0].acknowledged == STEPS * BATCH
