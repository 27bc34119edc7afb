"""Checkpoints that the engine would not take whole are refused, and the old weights serve on."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from service.weight_store import BadWeights, WeightStore
from tests.worker.adapters import make_adapter
from tests.worker.full_checkpoints import make_full
from tests.worker.weights.full_weights import (
    EVERYTHING,
    FILE,
    edit,
    publish,
    with_tensor,
    without,
    write,
)
from worker.engine import Engine
from worker.weights.checkpoints import INDEX
from worker.weights.versions import WeightVersions

NORM = "language_model.model.norm.weight"
PROJECTOR = "multi_modal_projector.linear_1.weight"


def cut_short(folder: Path) -> None:
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-100])


def second_file(folder: Path) -> None:
    save_file({NORM: torch.ones(64)}, folder / "more.safetensors", {"format": "pt"})


def index_of(*files: str):
    def write_index(folder: Path) -> None:
        names = {f"{n}": file for n, file in enumerate(files)}
        (folder / INDEX).write_text(json.dumps({"weight_map": names}))

    return write_index


def twice(folder: Path) -> None:
    second_file(folder)
    index_of(FILE, "more.safetensors")(folder)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (without(NORM), f"{NORM} is missing"),
        (without("vision_tower.vision_model.pre_layrnorm.bias"), "pre_layrnorm.bias is missing"),
        (edit(lambda _: {NORM: torch.ones(64)}), "is missing, and .* more"),
        (with_tensor("multi_modal_projector.linear_3.weight", torch.ones(3)), "linear_3.* nothing"),
        (with_tensor("language_model.model.layers.2.mlp.up_proj.weight", torch.ones(3)), "nothing"),
        (with_tensor(PROJECTOR, torch.ones(32, 64)), r"has shape \(32, 64\); .*needs \(64, 32\)"),
        (with_tensor(PROJECTOR, torch.ones(64, 31)), "has shape"),
        (with_tensor(NORM, torch.ones(64, dtype=torch.int64)), "is I64; the engine takes"),
        (cut_short, "cannot be read"),
        (second_file, "2 files of weights, and no"),
        (twice, "is also in"),
        (index_of("other.safetensors"), "differ by"),
        (index_of(), "differ by"),
        (lambda folder: (folder / INDEX).write_text("[]"), "cannot be read"),
        (lambda folder: (folder / FILE).write_bytes(b"garbage" * 9), "cannot be read"),
        (lambda folder: (folder / FILE).rename(folder / "model.bin"), "no file of safetensors"),
    ],
)
async def test_what_the_engine_would_not_take_whole_is_refused(
    engine: Engine,
    versions: WeightVersions,
    store: WeightStore,
    tmp_path: Path,
    damage: Callable[[Path], object],
    reason: str,
) -> None:
    made = make_full(engine.model, tmp_path / "made", seed=21, parts=EVERYTHING)
    damage(made)
    before = await write(engine)
    with pytest.raises(BadWeights, match=reason):
        await versions.adopt(store.publish(made, 21, "full"))
    assert versions.current == 0
    assert engine.alive
    assert await write(engine) == before


async def test_files_that_changed_in_the_store_are_refused(
    engine: Engine, versions: WeightVersions, store: WeightStore, tmp_path: Path
) -> None:
    published = publish(engine, store, tmp_path, 22)
    file = tmp_path / "store" / "22" / FILE
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(BadWeights, match="differs from its manifest"):
        await versions.adopt(published)
    file.unlink()
    with pytest.raises(BadWeights, match="is missing"):
        await versions.adopt(published)


async def test_adapters_and_full_weights_do_not_mix(
    engine: Engine, versions: WeightVersions, store: WeightStore, tmp_path: Path
) -> None:
    adapter = make_adapter(engine.model, tmp_path / "adapter", seed=1)
    await versions.adopt(publish(engine, store, tmp_path, 31))
    with pytest.raises(BadWeights, match=r"serves full weights \(version 31\), and takes no lora"):
        await versions.adopt(store.publish(adapter, 32, "lora"))
    other = WeightVersions(engine)
    await other.adopt(store.publish(adapter, 33, "lora"))
    with pytest.raises(BadWeights, match=r"serves lora weights \(version 33\), and takes no full"):
        await other.adopt(publish(engine, store, tmp_path, 34))
    await engine.remove_lora(33)
    other.close()
