"""Weights, hot: a worker adopts published adapters while it serves, or refuses them and lives.

The oracle is transformers + peft on the published files: greedy, float32.
"""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from service.schemas import WeightManifest, WeightVersion, user_turn
from service.weight_store import MANIFEST, BadWeights, WeightStore
from tests.worker.adapters import LANGUAGE_MODEL, make_adapter
from tests.worker.oracle import TOLERANCE, Oracle, Written, generate, random_image
from worker.engine import Engine
from worker.weights.versions import WeightVersions

TEXT = "Describe the image."


def publish(
    engine: Engine, store: WeightStore, folder: Path, version: int, **adapter: object
) -> WeightVersion:
    made = make_adapter(engine.model, folder / f"adapter-{version}", seed=version, **adapter)
    return store.publish(made, version, "lora")


async def write(engine: Engine, versions: WeightVersions, version: int) -> Written:
    written, _ = await generate(
        engine, TEXT, random_image(80, 60, 9), corruption=None, lora=versions.lora_request(version)
    )
    return written


def truth(engine: Engine, adapter: Path) -> Written:
    image = random_image(80, 60, 9)
    prompt = engine.inputs.renderer.prompt([user_turn(TEXT, images=1)])
    rendered = engine.inputs.renderer.tokenizer.decode(prompt.token_ids)
    return Oracle(engine.model, adapter).generate(rendered, image, None)


async def test_what_a_version_writes_equals_transformers_with_its_adapter(
    engine: Engine, versions: WeightVersions, store: WeightStore, tmp_path: Path
) -> None:
    before = await write(engine, versions, 0)
    written = [before]
    for number, rank in ((1, 8), (2, 16)):
        version = publish(engine, store, tmp_path, number, rank=rank)
        await versions.wait_for_room()
        await versions.adopt(version)
        assert versions.current == number
        answer = await write(engine, versions, number)
        expected = truth(engine, tmp_path / f"adapter-{number}")
        assert answer.token_ids == expected.token_ids
        np.testing.assert_allclose(answer.logprobs, expected.logprobs, atol=TOLERANCE, rtol=0)
        assert answer.logprobs != written[-1].logprobs, "the version changed nothing"
        written.append(answer)
    assert (await write(engine, versions, 0)).token_ids == before.token_ids


@pytest.mark.parametrize(
    "module", ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
)
async def test_every_module_of_an_adapter_is_applied(
    engine: Engine, versions: WeightVersions, store: WeightStore, tmp_path: Path, module: str
) -> None:
    targets = LANGUAGE_MODEL.replace("(q|k|v|o|gate|up|down)_proj", module)
    await versions.adopt(publish(engine, store, tmp_path, 7, targets=targets))
    answer, expected = await write(engine, versions, 7), truth(engine, tmp_path / "adapter-7")
    base = await write(engine, versions, 0)
    assert answer.token_ids == expected.token_ids
    np.testing.assert_allclose(answer.logprobs, expected.logprobs, atol=TOLERANCE, rtol=0)
    assert answer.logprobs != base.logprobs


async def test_a_job_keeps_its_version_and_nothing_waits_for_it(
    engine: Engine, versions: WeightVersions, store: WeightStore, tmp_path: Path
) -> None:
    await versions.adopt(publish(engine, store, tmp_path, 11))
    alone = await write(engine, versions, 11)
    with versions.use_current() as lora:
        assert lora is not None
        began_with = lora.lora_int_id
        assert began_with == 11
        running = asyncio.create_task(write(engine, versions, began_with))
        await versions.wait_for_room()
        await versions.adopt(publish(engine, store, tmp_path, 12))
        with versions.use_current() as newer:
            assert newer is not None
            assert newer.lora_int_id == 12
            new = await write(engine, versions, 12)
        assert (await running).token_ids == alone.token_ids
        # Still there, though it is no longer current: two versions are served at once.
        assert (await write(engine, versions, began_with)).token_ids == alone.token_ids
    assert new.logprobs != alone.logprobs


async def test_the_newest_waits_for_room_while_older_versions_are_in_use(
    engine: Engine, versions: WeightVersions, store: WeightStore, tmp_path: Path
) -> None:
    await versions.adopt(publish(engine, store, tmp_path, 21))
    with versions.use_current():
        await versions.adopt(publish(engine, store, tmp_path, 22))
        room = asyncio.create_task(versions.wait_for_room())
        await asyncio.sleep(0)
        assert not room.done()
    await asyncio.wait_for(room, 10)
    await versions.adopt(publish(engine, store, tmp_path, 23))
    assert versions.current == 23


def truncate(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def vanish(folder: Path) -> None:
    shutil.rmtree(folder)


def change_manifest(folder: Path) -> None:
    manifest = WeightManifest.model_validate_json((folder / MANIFEST).read_text())
    del manifest.files["adapter_config.json"]
    (folder / MANIFEST).write_text(manifest.model_dump_json())


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "differs from its manifest"),
        (vanish, "no manifest.json"),
        (change_manifest, "not the one that was announced"),
    ],
)
async def test_a_damaged_version_is_refused_and_the_old_one_serves_on(
    engine: Engine,
    versions: WeightVersions,
    store: WeightStore,
    tmp_path: Path,
    damage: Callable[[Path], None],
    reason: str,
) -> None:
    await versions.adopt(publish(engine, store, tmp_path, 31))
    before = await write(engine, versions, 31)
    version = publish(engine, store, tmp_path, 32)
    damage(tmp_path / "store" / "32")
    with pytest.raises(BadWeights, match=reason):
        await versions.adopt(version)
    assert versions.current == 31
    assert engine.alive
    assert await write(engine, versions, 31) == before


def edit_tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]):
    def edit(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        save_file(change(load_file(file)), file)

    return edit


def edit_settings(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return edit


def with_projector(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = "base_model.model.model.multi_modal_projector.linear_1"
    return tensors | {
        f"{name}.lora_A.weight": torch.ones(8, 32),
        f"{name}.lora_B.weight": torch.ones(64, 8),
    }


def wrong_shape(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    key = next(k for k in tensors if "q_proj.lora_A" in k)
    return tensors | {key: torch.ones(8, 60)}


def too_deep(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.replace("layers.1.", "layers.9."): value for key, value in tensors.items()}


def half(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(list(tensors.items())[:1])


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (edit_tensors(with_projector), "multi_modal_projector.* is of no linear layer"),
        (edit_tensors(wrong_shape), "shape"),
        (edit_tensors(too_deep), "the model has 2 layers"),
        (edit_tensors(half), "missing for layer"),
        (edit_tensors(lambda tensors: {}), "no tensors"),
        (edit_settings(use_dora=True), "use_dora"),
        (edit_settings(peft_type="IA3"), "IA3"),
        (edit_settings(modules_to_save=["lm_head"]), "modules_to_save"),
        (edit_settings(r=0), "engine refused it"),
        (
            lambda folder: (folder / "adapter_config.json").unlink(),
            "adapter_config.json is missing",
        ),
        (
            lambda folder: (folder / "adapter_model.safetensors").rename(folder / "x.bin"),
            "adapter_model.safetensors is missing",
        ),
        (
            lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"garbage" * 9),
            "cannot be read",
        ),
    ],
)
async def test_what_the_engine_would_not_apply_whole_is_refused(
    engine: Engine,
    versions: WeightVersions,
    store: WeightStore,
    tmp_path: Path,
    edit: Callable[[Path], None],
    reason: str,
) -> None:
    made = make_adapter(engine.model, tmp_path / "adapter", seed=41)
    edit(made)
    before = await write(engine, versions, 0)
    with pytest.raises(BadWeights, match=reason):
        await versions.adopt(store.publish(made, 41, "lora"))
    assert versions.current == 0
    assert engine.alive
    assert await write(engine, versions, 0) == before


async def test_a_rank_above_the_workers_is_refused(
    engine: Engine, versions: WeightVersions, store: WeightStore, tmp_path: Path
) -> None:
    with pytest.raises(BadWeights, match="rank 32; this worker takes at most 16"):
        await versions.adopt(publish(engine, store, tmp_path, 51, rank=32))
    assert versions.current == 0


async def test_a_kind_of_weights_of_tomorrow_is_refused(
    engine: Engine, versions: WeightVersions, store: WeightStore, tmp_path: Path
) -> None:
    version = publish(engine, store, tmp_path, 9).model_copy(update={"kind": "delta"})
    with pytest.raises(BadWeights, match="takes no delta weights"):
        await versions.adopt(version)
    assert versions.current == 0
