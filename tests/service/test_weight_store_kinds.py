"""What a weight store promises, in a folder and in a bucket of a real S3 server."""

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import fsspec
import gcsfs
import pytest

from service import weight_store
from service.schemas import WeightVersion
from service.weight_store import MANIFEST, BadWeights, UnusableAddress, WeightStore, fetch
from tests.buckets import bucket as bucket
from tests.buckets import s3_server as s3_server
from worker.weights.fetching import fetch_within

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x" * 9_000_000, "more": b""}
"""The largest in several parts of an upload."""


@pytest.fixture(params=["file", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return str(tmp_path / "store")
    return f"s3://{request.getfixturevalue('bucket')}/some/weights"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def filesystem(root: str) -> tuple[Any, str]:
    return cast(tuple[Any, str], fsspec.url_to_fs(root, use_listings_cache=False))


def names(root: str) -> list[str]:
    """Of what stands in a folder of the store."""
    fs, path = filesystem(root)
    found = fs.ls(path, detail=False) if fs.exists(path) else []
    return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in found)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_published_is_fetched_byte_for_byte(root: str, made: Path, tmp_path: Path) -> None:
    published = WeightStore(root).publish(made, 3, "lora", only=["more", "adapter_config.json"])
    assert names(root) == ["3"]
    assert published.location.endswith("/3")
    manifest = fetch(published, tmp_path / "mine")
    assert content(tmp_path / "mine") == {name: FILES[name] for name in manifest.files}
    assert sorted(manifest.files) == ["adapter_config.json", "more"]
    whole = WeightStore(root).publish(made, 4, "full", move=True)
    fetch(whole, tmp_path / "whole")
    assert content(tmp_path / "whole") == FILES


def test_publishing_again_replaces_the_whole_version(root: str, made: Path, tmp_path: Path) -> None:
    first = WeightStore(root).publish(made, 1, "lora")
    (made / "more").unlink()
    (made / "adapter_config.json").write_bytes(b"other")
    second = WeightStore(root).publish(made, 1, "lora")
    assert names(f"{root}/1") == ["adapter_config.json", "adapter_model.safetensors", MANIFEST]
    with pytest.raises(BadWeights, match="not the one that was announced"):
        fetch(first, tmp_path / "first")
    fetch(second, tmp_path / "second")
    assert content(tmp_path / "second") == content(made)


def test_a_publication_that_fails_leaves_nothing(
    root: str, made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = WeightStore(root)
    kept = store.publish(made, 1, "lora")

    def disk_full(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(weight_store, "_copy", disk_full)
        with pytest.raises(OSError, match="no space left"):
            store.publish(made, 2, "lora")
    assert names(root) == ["1"]
    fetch(kept, tmp_path / "kept")
    fetch(store.publish(made, 2, "lora"), tmp_path / "next")
    assert content(tmp_path / "next") == FILES


def without(name: str) -> Callable[[Any, str], None]:
    return lambda fs, folder: fs.rm_file(f"{folder}/{name}")


def cut(fs: Any, folder: str) -> None:
    fs.pipe_file(f"{folder}/adapter_model.safetensors", b"x" * 1000)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (without(MANIFEST), f"no {MANIFEST} at"),
        (without("more"), "more is missing"),
        (cut, "adapter_model.safetensors differs from its manifest: 1000 bytes"),
    ],
)
def test_a_part_of_a_version_is_never_fetched(
    damage: Callable[[Any, str], None], reason: str, root: str, made: Path, tmp_path: Path
) -> None:
    published = WeightStore(root).publish(made, 1, "lora")
    fs, folder = filesystem(f"{root}/1")
    damage(fs, folder)
    with pytest.raises(BadWeights, match=reason):
        fetch(published, tmp_path / "mine" / "1")
    assert list((tmp_path / "mine").iterdir()) == []
    fetch(WeightStore(root).publish(made, 1, "lora"), tmp_path / "again")


def test_old_versions_go_and_those_in_use_stay(root: str, made: Path) -> None:
    store = WeightStore(root)
    for version in (9, 10, 1, 2, 11):
        store.publish(made, version, "lora")
    fs, path = filesystem(root)
    fs.makedirs(f"{path}/.12.cut-short", exist_ok=True)
    fs.pipe_file(f"{path}/.12.cut-short/more", b"x")
    assert store.keep_newest(2, besides={2}) == [1, 9]
    assert names(root) == ["10", "11", "2"]
    assert store.keep_newest(2, besides={2}) == []


def test_another_trainers_versions_are_seen_at_once(root: str, made: Path) -> None:
    """No listing of an earlier look is believed."""
    mine, theirs = WeightStore(root), WeightStore(root)
    mine.publish(made, 1, "lora")
    assert mine.keep_newest(1) == []
    theirs.publish(made, 2, "lora")
    assert mine.keep_newest(1) == [1]


def test_a_bucket_that_is_not_there_is_named_and_not_made(
    s3_server: str, made: Path, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match="bucket does not exist"):
        WeightStore("s3://misspelt/weights").publish(made, 1, "lora")
    fs, _ = filesystem("s3://misspelt")
    assert not fs.exists("misspelt")
    version = WeightVersion(
        version=1, kind="lora", location="s3://misspelt/weights/1", manifest_sha256="0" * 64
    )
    with pytest.raises(BadWeights, match=r"no manifest.json at s3://misspelt/weights/1"):
        fetch(version, tmp_path / "mine")


async def test_a_server_that_never_answers_is_given_up(
    s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    version = WeightVersion(
        version=1, kind="lora", location="s3://silent/1", manifest_sha256="0" * 64
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{silent.getsockname()[1]}")
        fs = filesystem("s3://silent")[0]
        fs.clear_instance_cache()
        with pytest.raises(BadWeights, match=r"s3://silent/1 .* longer than 0.5 s"):
            await fetch_within(0.5, version, tmp_path / "mine")
        fs.clear_instance_cache()


@pytest.mark.parametrize(
    ("address", "module", "extra"),
    [("s3://b/w", "s3fs", "s3"), ("gs://b/w", "gcsfs", "gcs"), ("gcs://b/w", "gcsfs", "gcs")],
)
def test_a_library_that_is_not_installed_is_named_with_its_extra(
    address: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    loaded = cast(Any, sys.modules["fsspec.registry"])._registry
    monkeypatch.delitem(loaded, address.partition(":")[0], raising=False)
    with pytest.raises(UnusableAddress, match=rf"pip install 'prefstream\[{extra}\]'"):
        WeightStore(address)


def test_gcs_is_reached_by_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no GCS server among Python's packages: who reads the address and where, no more."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    fs, path = filesystem("gs://bucket/weights")
    assert isinstance(fs, gcsfs.GCSFileSystem)
    assert (fs._location, path) == ("http://127.0.0.1:9", "bucket/weights")
    fs.clear_instance_cache()
