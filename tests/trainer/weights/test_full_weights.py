"""Full weights: which parts learn and how fast, resuming, and what is published."""

import threading
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForImageTextToText, AutoProcessor

from service.client import Client
from service.schemas import WeightVersion
from service.weight_store import fetch
from tests.servers import Server
from tests.trainer import pairs
from tests.trainer.conftest import Configure
from tests.trainer.training_runs import Trials
from trainer.settings import InvalidSettings, Part, TrainerSettings
from trainer.train import train
from trainer.weights import full_weights
from trainer.weights.adapter import UnservableWeights
from trainer.weights.full_weights import PARTS


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """As transformers reads them."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    return dict(model.state_dict())


def learnt(before: Path, after: Path) -> set[Part]:
    old, new = weights(before), weights(after)
    changed = {name for name, tensor in old.items() if not torch.equal(new[name], tensor)}
    return {part for part, names in PARTS.items() if any(names.match(name) for name in changed)}


def newest(server: Server) -> WeightVersion:
    with Client(server.url) as client:
        version = client.weights().newest
    assert version is not None
    return version


@pytest.mark.parametrize("parts", [["projector"], ["language_model", "projector"], ["tower"]])
def test_the_chosen_parts_learn_and_all_weights_are_published(
    parts: list[Part], server: Server, configure: Configure, model: Path, tmp_path: Path
):
    pairs.append(server.url, 8)
    settings = configure(steps=2, train="full", parts=parts, publish_every=2)
    train(settings, threading.Event())
    published = newest(server)
    assert published.kind == "full"
    manifest = fetch(published, tmp_path / "copy")
    endings = {name.rpartition(".")[2] for name in manifest.files}
    assert endings == {"json", "jinja", "safetensors"}, "something that nobody needs is published"
    AutoProcessor.from_pretrained(tmp_path / "copy")
    saved, told = weights(settings.output / "checkpoint-2"), weights(tmp_path / "copy")
    assert saved.keys() == told.keys()
    assert all(torch.equal(told[name], tensor) for name, tensor in saved.items())
    assert learnt(model, tmp_path / "copy") == set(parts)


def test_the_projector_has_a_learning_rate_of_its_own(model: Path):
    policy = AutoModelForImageTextToText.from_pretrained(model)
    full_weights.set_trainable(policy, ["language_model", "projector"])
    learning = [weights for weights in policy.parameters() if weights.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-6)
    full_weights.split_learning_rate(optimizer, policy, 2e-5)
    rates = {id(w): group["lr"] for group in optimizer.param_groups for w in group["params"]}
    assert len(rates) == len(learning)
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            expected = 2e-5 if PARTS["projector"].match(name) else 1e-6
            assert rates[id(parameter)] == expected, name


def test_a_trainer_uses_that_rate(server: Server, configure: Configure, tmp_path: Path):
    pairs.append(server.url, 4)
    settings = configure(
        steps=1, train="full", learning_rate=1e-12, projector_learning_rate=1e-3, publish_every=1
    )
    train(settings, threading.Event())
    fetch(newest(server), tmp_path / "copy")
    told, start = weights(tmp_path / "copy"), weights(Path(settings.model))
    moved = {name: (told[name] - start[name]).abs().max().item() for name in start}
    assert all(moved[name] > 1e-4 for name in moved if "multi_modal_projector" in name)
    assert all(moved[name] < 1e-6 for name in moved if "language_model" in name)


def test_a_resumed_trainer_goes_on_as_if_it_had_never_stopped(
    server: Server, configure: Configure, trials: Trials, tmp_path: Path
):
    pairs.append(server.url, 16)
    options = {"train": "full", "projector_learning_rate": 1e-4}
    whole = configure(steps=4, output=tmp_path / "whole", group="whole", **options)
    parts = configure(steps=2, output=tmp_path / "parts", group="parts", **options)
    trials.run(whole)
    trials.run(parts)
    trials.run(parts.model_copy(update={"steps": 4}))
    resumed = weights(parts.output / "checkpoint-4")
    for name, tensor in weights(whole.output / "checkpoint-4").items():
        assert torch.equal(resumed[name], tensor), name


def test_two_processes_publish_what_one_learns(
    server: Server, configure: Configure, trials: Trials, tmp_path: Path
):
    pairs.append(server.url, 8)
    parts: list[Part] = ["language_model", "projector", "tower"]
    options = {"steps": 2, "train": "full", "parts": parts, "learning_rate": 1e-4}
    one = configure(output=tmp_path / "one", group="one", **options)
    two = configure(output=tmp_path / "two", group="two", publish_every=2, **options)
    trials.run(one)
    trials.run(two, processes=2)
    fetch(newest(server), tmp_path / "copy")
    told = weights(tmp_path / "copy")
    for name, tensor in weights(one.output / "checkpoint-2").items():
        torch.testing.assert_close(told[name], tensor, atol=2e-5, rtol=1e-3)


def test_checkpoints_of_an_adapter_are_not_gone_on_with(server: Server, configure: Configure):
    pairs.append(server.url, 8)
    train(configure(steps=1), threading.Event())
    with pytest.raises(
        InvalidSettings, match=r"are of `train = 'lora'`; these settings say 'full'"
    ):
        train(configure(steps=2, train="full"), threading.Event())


def test_what_only_full_weights_can_have_is_refused_for_an_adapter():
    with pytest.raises(ValidationError, match="an adapter is of the language model alone"):
        TrainerSettings(parts=["projector"])
    with pytest.raises(ValidationError, match="an adapter is of the language model alone"):
        TrainerSettings(projector_learning_rate=1e-5)


def test_a_model_without_a_part_is_refused(model: Path):
    policy = AutoModelForImageTextToText.from_pretrained(model)
    del policy.model.vision_tower
    with pytest.raises(UnservableWeights, match="has no tower"):
        full_weights.set_trainable(policy, ["tower"])
