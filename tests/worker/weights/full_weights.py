"""Full weights as tests publish them; what the engine and transformers write with them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from service.schemas import WeightVersion, user_turn
from service.weight_store import WeightStore
from tests.worker.full_checkpoints import make_full
from tests.worker.oracle import TOLERANCE, Oracle, Written, generate, random_image
from trainer.settings import Part
from worker.engine import Engine

TEXT = "Describe the image."
IMAGE = random_image(80, 60, 9)
EVERYTHING: tuple[Part, ...] = ("language_model", "projector", "tower")
FILE = "model.safetensors"


def publish(
    engine: Engine,
    store: WeightStore,
    folder: Path,
    version: int,
    parts: tuple[Part, ...] = EVERYTHING,
) -> WeightVersion:
    made = make_full(engine.model, folder / f"full-{version}", seed=version, parts=parts)
    return store.publish(made, version, "full")


async def write(engine: Engine) -> Written:
    return (await generate(engine, TEXT, IMAGE, corruption=None))[0]


def truth(engine: Engine, folder: Path, after: list[int] | None = None, **more: int) -> Written:
    prompt = engine.inputs.renderer.prompt([user_turn(TEXT, images=1)])
    rendered = engine.inputs.renderer.tokenizer.decode(prompt.token_ids)
    return Oracle(str(folder)).generate(rendered, IMAGE, None, after or (), **more)


def assert_same(written: Written, expected: Written) -> None:
    assert written.token_ids == expected.token_ids
    np.testing.assert_allclose(written.logprobs, expected.logprobs, atol=TOLERANCE, rtol=0)


def edit(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]):
    def edit_file(folder: Path) -> None:
        save_file(change(load_file(folder / FILE)), folder / FILE, {"format": "pt"})

    return edit_file


def without(key: str):
    return edit(lambda tensors: {k: t for k, t in tensors.items() if k != key})


def with_tensor(key: str, tensor: torch.Tensor):
    return edit(lambda tensors: tensors | {key: tensor})
