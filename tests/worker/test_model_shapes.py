"""Shapes of each supported family, without its weights, by the engine's names."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from service.checkpoints.tensor_names import published_name
from service.weight_store import BadWeights
from tests.worker import checkpoints
from tests.worker.adapters import make_adapter
from worker.model_shapes import ModelShapes, model_shapes
from worker.weights.adapters import WEIGHTS, check_adapter

ADAPTER_MODULES = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def engine_names(names: Sequence[str]) -> list[str]:
    return [published_name(name) for name in names]


@pytest.fixture(scope="module", params=["llava", "llava_next"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return getattr(checkpoints, request.param)(tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def shapes(checkpoint: Path) -> ModelShapes:
    return model_shapes(AutoConfig.from_pretrained(checkpoint), engine_names)


def test_tensors_are_those_of_the_checkpoint(checkpoint: Path, shapes: ModelShapes) -> None:
    with safe_open(checkpoint / "model.safetensors", "pt") as saved:
        names = saved.keys()
        found = {published_name(n): tuple(saved.get_slice(n).get_shape()) for n in names}
    assert shapes.tensors == found


def test_lora_is_served_on_the_language_models_linear_layers(shapes: ModelShapes) -> None:
    assert shapes.lora_target_modules == ADAPTER_MODULES
    assert len(shapes.linear_layers) == 2 * len(ADAPTER_MODULES)
    assert all(name.startswith("language_model.model.layers.") for name in shapes.linear_layers)
    assert all(
        shapes.tensors[f"{name}.weight"] == shape for name, shape in shapes.linear_layers.items()
    )


def test_adapters_of_older_transformers_pass(
    checkpoint: Path, shapes: ModelShapes, tmp_path: Path
) -> None:
    folder = make_adapter(str(checkpoint), tmp_path / "adapter", seed=1)
    check_adapter(folder, shapes, 16)
    tensors = load_file(folder / WEIGHTS)
    new, old = "model.model.language_model.", "model.language_model.model."
    assert all(new in name for name in tensors)
    save_file({name.replace(new, old): t for name, t in tensors.items()}, folder / WEIGHTS)
    check_adapter(folder, shapes, 16)


@pytest.mark.parametrize(
    "layer",
    [
        "model.vision_tower.encoder.layers.0.self_attn.q_proj",
        "lm_head",
        "model.language_model.embed_tokens",
    ],
)
def test_adapters_of_other_layers_are_refused(
    checkpoint: Path, shapes: ModelShapes, tmp_path: Path, layer: str
) -> None:
    folder = make_adapter(str(checkpoint), tmp_path / "adapter", seed=1)
    more = {f"base_model.model.{layer}.lora_A.weight": torch.ones(8, 64)}
    save_file(load_file(folder / WEIGHTS) | more, folder / WEIGHTS)
    with pytest.raises(BadWeights, match="is of no linear layer of the language model"):
        check_adapter(folder, shapes, 16)
