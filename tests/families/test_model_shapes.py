"""Shapes of each family's model without its weights, by vLLM's names."""

from collections.abc import Callable
from pathlib import Path

import pytest

from service.checkpoints.input_processor import load_config
from service.weight_store import BadWeights
from tests.families.adapters import make_adapter
from tests.families.family import FAMILIES, Family
from worker.model_shapes import ModelShapes, model_shapes
from worker.plugin.masking import engine_names
from worker.weights.adapters import check_adapter
from worker.weights.checkpoints import check_checkpoint

Checkpoint = Callable[[str], Path]


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture
def shapes(family: Family, checkpoint: Checkpoint) -> ModelShapes:
    folder = str(checkpoint(family.name))
    config = load_config(folder, trust_remote_code=family.trust_remote_code)
    return model_shapes(config, engine_names(family.architecture))


def test_its_own_checkpoint_is_whole(
    family: Family, shapes: ModelShapes, checkpoint: Checkpoint
) -> None:
    folder = checkpoint(family.name)
    if not shapes.complete:
        with pytest.raises(BadWeights, match="full weights cannot be checked"):
            check_checkpoint(folder, shapes)
    else:
        check_checkpoint(folder, shapes)


def test_an_adapter_of_the_language_model_is_taken(
    family: Family, shapes: ModelShapes, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    assert shapes.complete == (not family.trust_remote_code)
    assert {"q_proj", "k_proj", "v_proj", "o_proj"} <= set(shapes.lora_target_modules)
    assert not any("vision" in name for name in shapes.linear_layers)
    adapter = make_adapter(family, checkpoint(family.name), tmp_path / "adapter")
    check_adapter(adapter, shapes, 16)
