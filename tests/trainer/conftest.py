"""A small policy, and trainers in processes of their own."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Server
from tests.trainer.pairs import RUN
from tests.trainer.training_runs import Trials
from trainer.settings import TrainerSettings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several processes share the cores

Configure = Callable[..., TrainerSettings]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy policy with fresh weights."""
    import torch

    from trainer.toy.recipe.model import build_model, build_processor, save
    from trainer.toy.recipe.tokenizer import build_tokenizer

    folder = tmp_path_factory.mktemp("model")
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    save(build_model(tokenizer), build_processor(tokenizer), folder)
    return folder


@pytest.fixture
def configure(server: Server, model: Path, tmp_path: Path) -> Configure:
    """Settings of a small run: batches of 4, a checkpoint every 2 steps."""

    def settings(**changes: Any) -> TrainerSettings:
        return TrainerSettings(
            **{
                "url": server.url,
                "run": RUN,
                "lease_s": 2.0,
                "model": str(model),
                "output": tmp_path / "out",
                "lora_rank": 4,
                "lora_alpha": 8,
                "learning_rate": 1e-3,
                "batch_size": 4,
                "device_batch_size": 2,
                "gradient_checkpointing": False,
                "checkpoint_every": 2,
                "publish_every": 0,
                "steps": 6,
                **changes,
            }
        )

    return settings


@pytest.fixture(scope="session")
def trials() -> Trials:
    return Trials()
