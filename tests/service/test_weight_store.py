"""What a weight store may do wrong is said as a refusal, with its reason."""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from service.schemas import WeightVersion
from service.weight_store import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    BadWeights,
    UnusableAddress,
    WeightStore,
    fetch,
    unknown_scheme,
)

FILE = "adapter_model.safetensors"


@pytest.fixture
def published(tmp_path: Path) -> WeightVersion:
    (tmp_path / "made").mkdir()
    for name in ("adapter_config.json", FILE):
        (tmp_path / "made" / name).write_text(name)
    return WeightStore(str(tmp_path / "store")).publish(tmp_path / "made", 1, "lora")


def announce_anew(folder: Path, version: WeightVersion, manifest: bytes) -> WeightVersion:
    """As whoever announces what a manifest says, whatever it says."""
    (folder / MANIFEST).write_bytes(manifest)
    digest = hashlib.sha256(manifest).hexdigest()
    return version.model_copy(update={"manifest_sha256": digest})


def edited(change: Callable[[str], str]) -> Callable[[Path, WeightVersion], WeightVersion]:
    return lambda folder, version: announce_anew(
        folder, version, change((folder / MANIFEST).read_text()).encode()
    )


def in_place(change: Callable[[Path], object]) -> Callable[[Path, WeightVersion], WeightVersion]:
    def edit(folder: Path, version: WeightVersion) -> WeightVersion:
        change(folder)
        return version

    return edit


def directory_for(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def at(location: str) -> Callable[[Path, WeightVersion], WeightVersion]:
    return lambda folder, version: version.model_copy(update={"location": location})


def endless(folder: Path) -> None:
    (folder / FILE).unlink()
    (folder / FILE).symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (at("foo://bucket/1"), "no file system is known by foo://"),
        (at("simplecache::foo://bucket/1"), "no file system is known by foo://"),
        (at("http://127.0.0.1:9/weights/1"), "at http://127.0.0.1:9/weights/1 (Cannot connect"),
        (at("github://nobody:nothing@x/1"), "cannot be read"),
        (at("zip://1::/nowhere.zip"), "cannot be read"),
        (at("/nowhere"), "no manifest.json at /nowhere"),
        (at("/dev/null"), "cannot be read: NotADirectoryError"),
        (at("/a\0b"), "cannot be read: ValueError"),
        (in_place(directory_for(MANIFEST)), "cannot be read: IsADirectoryError"),
        (in_place(directory_for(FILE)), "IsADirectoryError"),
        (in_place(lambda f: (f / FILE).unlink()), f"{FILE} is missing"),
        (in_place(lambda f: (f / FILE).write_text("")), "differs from its manifest: 0 bytes"),
        (in_place(lambda f: (f / FILE).write_text("x" * 9)), "differs from its manifest: 9 bytes"),
        (in_place(endless), "differs from its manifest"),
        (in_place(lambda f: (f / MANIFEST).write_text("")), "not the one that was announced"),
        (edited(lambda text: text[:40]), "manifest.json cannot be read"),
        (edited(lambda text: "[" * 9000), "manifest.json cannot be read"),
        (edited(lambda text: text.replace('"lora"', '"full"')), "is of full version 1"),
        (edited(lambda text: text.replace('"version": 1', '"version": 2')), "lora version 2"),
        (edited(lambda text: text.replace(FILE, f"../{FILE}")), "is no plain file name"),
        (edited(lambda text: text.replace(FILE, ".")), "is no plain file name"),
        (edited(lambda text: text + " " * MAX_MANIFEST_BYTES), "not the one that was announced"),
    ],
)
def test_whatever_is_wrong_with_a_version_is_a_refusal(
    damage: Callable[[Path, WeightVersion], WeightVersion],
    reason: str,
    published: WeightVersion,
    tmp_path: Path,
) -> None:
    version = damage(tmp_path / "store" / "1", published)
    with pytest.raises(BadWeights, match=re.escape(reason)):
        fetch(version, tmp_path / "mine" / "1")
    assert not list(tmp_path.glob("mine/*")), "a part of it was left"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read_are_a_refusal(published: WeightVersion, tmp_path: Path) -> None:
    (tmp_path / "store" / "1" / FILE).chmod(0)
    with pytest.raises(BadWeights, match="PermissionError"):
        fetch(published, tmp_path / "mine")


def test_a_disk_that_cannot_be_written_is_a_refusal(
    published: WeightVersion, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("a file where a folder should be")
    with pytest.raises(BadWeights, match="NotADirectoryError"):
        fetch(published, tmp_path / "mine" / "1")


def test_a_store_of_an_unknown_scheme_is_refused_before_anything_is_published() -> None:
    with pytest.raises(UnusableAddress, match="no file system is known by foo://"):
        WeightStore("foo://bucket/weights")


def test_schemes_that_some_library_reads_are_known() -> None:
    for address in ("/a", "a", "file:///a", "s3://b/1", "gs://b/1", "simplecache::gcs://b/1"):
        assert unknown_scheme(address) is None
    assert unknown_scheme("simplecache::s4://b") == "s4"
