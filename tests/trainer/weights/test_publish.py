"""Versions in the store and their announcements, against a real broker with workers' heartbeats."""

import asyncio
import errno
import os
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
import torch
from safetensors.torch import load_file

from service.broker import Broker
from service.client import Client
from service.schemas import WorkerInfo
from service.settings import Settings
from service.weight_store import WeightStore, fetch
from tests.servers import Server
from tests.trainer import pairs
from tests.trainer.conftest import Configure
from trainer.train import TrainingResult, train
from trainer.waiting import Waiter
from trainer.weights.publish import Publisher


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "README.md"):
        (folder / name).write_text(name)
    return folder


def publisher(client: Client, store: Path, **changes: Any) -> Publisher:
    options = {"run": "r", "keep": 2, "wait": "none", "wait_s": 30.0, **changes}
    return Publisher(client, Waiter(threading.Event()), WeightStore(str(store)), **options)


def test_a_version_is_complete_in_the_store_and_announced(
    client: Client, adapter: Path, tmp_path: Path
):
    published = publisher(client, tmp_path / "store").publish(adapter, step=3)
    assert client.weights().newest == published
    manifest = fetch(published, tmp_path / "copy")
    assert sorted(manifest.files) == ["adapter_config.json", "adapter_model.safetensors"]
    assert (manifest.version, manifest.step, manifest.run) == (1, 3, "r")


def test_versions_only_grow_and_the_store_keeps_the_last(
    client: Client, adapter: Path, tmp_path: Path
):
    first = publisher(client, tmp_path / "store")
    assert [first.publish(adapter, step).version for step in (1, 2, 3)] == [1, 2, 3]
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["2", "3"]
    # Another trainer, or the same one resumed: from what is announced, and from its checkpoint.
    assert publisher(client, tmp_path / "store").publish(adapter, 4).version == 4
    assert publisher(client, tmp_path / "store", version=9).publish(adapter, 5).version == 10


def test_a_new_line_does_not_use_the_number_of_a_withdrawn_version(
    client: Client, adapter: Path, tmp_path: Path
):
    first = publisher(client, tmp_path / "store")
    for step in (1, 2, 3):
        first.publish(adapter, step)
    client.withdraw(3)
    client.withdraw(2)
    assert publisher(client, tmp_path / "store").publish(adapter, 1).version == 4


def test_full_weights_go_into_a_store_on_the_same_disk_as_they_are(
    client: Client, adapter: Path, tmp_path: Path
):
    expected = {path.name: path.read_text() for path in adapter.iterdir()}
    published = publisher(client, tmp_path / "store").publish(adapter, 1, "full")
    assert list(adapter.iterdir()) == []
    manifest = fetch(published, tmp_path / "copy")
    assert manifest.kind == "full"
    assert {name: (tmp_path / "copy" / name).read_text() for name in manifest.files} == expected


def test_a_version_is_linked_on_the_same_disk_and_outlives_its_place_in_the_store(
    client: Client, adapter: Path, tmp_path: Path
):
    expected = {path.name: path.read_bytes() for path in adapter.iterdir()}
    published = publisher(client, tmp_path / "store").publish(adapter, 1, "full")
    fetch(published, tmp_path / "mine")
    for name in expected:
        assert (tmp_path / "mine" / name).samefile(tmp_path / "store" / "1" / name)
    shutil.rmtree(tmp_path / "store" / "1")
    assert {p.name: p.read_bytes() for p in (tmp_path / "mine").iterdir()} == expected


def test_a_version_that_cannot_be_linked_is_copied(
    client: Client, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    published = publisher(client, tmp_path / "store").publish(adapter, 1)
    monkeypatch.setattr(os, "link", refuse)
    manifest = fetch(published, tmp_path / "mine")
    for name in manifest.files:
        mine, stored = tmp_path / "mine" / name, tmp_path / "store" / "1" / name
        assert mine.read_bytes() == stored.read_bytes()
        assert not mine.samefile(stored)


def test_a_folder_without_weights_is_not_published(client: Client, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds nothing to publish"):
        publisher(client, tmp_path / "store").publish(tmp_path / "empty", 1)
    assert client.weights().newest is None


def test_what_a_live_worker_runs_is_kept_in_the_store(
    client: Client, server: Server, adapter: Path, tmp_path: Path
):
    async def live() -> None:
        async with Broker.connect(broker_settings(server)) as broker:
            await broker.workers.heartbeat(worker("old", 1))

    asyncio.run(live())
    publishes = publisher(client, tmp_path / "store")
    for step in range(1, 6):
        publishes.publish(adapter, step)
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["1", "4", "5"]


def test_the_barrier_waits_for_every_live_worker_to_serve_or_refuse(
    client: Client, server: Server, adapter: Path, tmp_path: Path
):
    told: list[str] = []

    async def work() -> None:
        async with Broker.connect(broker_settings(server)) as broker:
            for name in "ab":
                await broker.workers.heartbeat(worker(name, 0))
            started.set()
            await broker.weights.wait_newer(0, timeout_s=30)
            await broker.weights.refuse("a", 1, "rank 999 is above 16")
            told.append("refused")
            await broker.workers.heartbeat(worker("b", 1))

    started = threading.Event()
    workers = threading.Thread(target=lambda: asyncio.run(work()))
    workers.start()
    assert started.wait(30)
    with structlog.testing.capture_logs() as logs:
        publisher(client, tmp_path / "store", wait="all").publish(adapter, 1)
    assert told == ["refused"]
    workers.join(30)
    [refusal] = [line for line in logs if line["event"] == "a worker refused the version"]
    assert (refusal["worker"], refusal["reason"]) == ("a", "rank 999 is above 16")


def test_the_barrier_does_not_wait_for_ever(
    client: Client, server: Server, adapter: Path, tmp_path: Path
):
    async def live() -> None:
        async with Broker.connect(broker_settings(server)) as broker:
            await broker.workers.heartbeat(worker("slow", 0))

    asyncio.run(live())
    with structlog.testing.capture_logs() as logs:
        publisher(client, tmp_path / "store", wait="all", wait_s=0.2).publish(adapter, 1)
    assert "workers lag; going on" in [line["event"] for line in logs]


def test_a_trainer_publishes_what_it_has_learnt_and_goes_on_counting_when_resumed(
    client: Client, server: Server, configure: Configure
):
    torch.set_num_threads(1)
    pairs.append(server.url, 24)
    settings = configure(steps=4, publish_every=2)
    assert train(settings, threading.Event()) == TrainingResult(4, 2, True)
    newest = client.weights().newest
    assert newest is not None
    copy = settings.output / "copy"
    assert fetch(newest, copy).step == 4
    saved = load_file(settings.output / "checkpoint-4" / "adapter_model.safetensors")
    published = load_file(copy / "adapter_model.safetensors")
    assert published.keys() == saved.keys()
    assert all(torch.equal(published[name], weights) for name, weights in saved.items())
    assert all(name.startswith("base_model.model.model.language_model.layers.") for name in saved)

    resumed = settings.model_copy(update={"steps": 6})
    assert train(resumed, threading.Event()) == TrainingResult(6, 3, True)
    newest = client.weights().newest
    assert newest is not None
    assert newest.version == 3


def worker(name: str, version: int) -> WorkerInfo:
    return WorkerInfo(
        id=name,
        model="toy",
        weight_version=version,
        slots=1,
        running=0,
        engine_ready=True,
        heartbeat_at=datetime.now(UTC),
    )


def broker_settings(server: Server) -> Settings:
    return Settings(redis_url=server.url)  # pyright: ignore[reportArgumentType]
