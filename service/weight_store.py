"""Where trainers leave weights and workers find them: a folder or a bucket, through fsspec.

A version is one folder. Its manifest, written last, lists every file with its SHA-256, and the
announcement names the manifest's own hash, so that a worker loads what the trainer wrote or
nothing. On a disk the folder is complete or absent: it is written under another name, then renamed.
A bucket has no folders to rename, and what is uploaded there in part has no manifest.
"""

import hashlib
import math
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import fsspec  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
from fsspec.utils import get_protocol  # type: ignore[import-untyped]
from pydantic import ValidationError

from service.schemas import (
    TOLERANT,
    RunName,
    WeightFile,
    WeightManifest,
    WeightsKind,
    WeightVersion,
)

Item = TypeVar("Item")
Done = TypeVar("Done")

MANIFEST = "manifest.json"

MAX_MANIFEST_BYTES = 2**24
"""What is read of a manifest, at most: one file more or less is some 120 bytes."""

CHUNK_BYTES = 2**22
"""Bytes that are read, hashed and written at once."""

PARALLEL_FILES = 4
"""Files that are checked side by side: one alone keeps a core busy with its sum."""


EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""Which extra of ours brings the library of a scheme."""


class BadWeights(ValueError):
    """A version's folder is not what was announced, or cannot be read. Says what is wrong."""


class UnusableAddress(ValueError):
    """Of a weight store: nothing here reads that scheme. Says what is missing."""


class WeightStore:
    """Versions under one root, such as `/shared/weights` or `s3://bucket/weights`."""

    def __init__(self, root: str):
        """Raises: UnusableAddress."""
        self._fs, self._root = _filesystem(root)
        self._uri = str(self._fs.unstrip_protocol(self._root))
        self._local = isinstance(self._fs, LocalFileSystem)
        self._is_bucket = not EXTRAS.keys().isdisjoint(self._fs.protocol)

    def publish(
        self,
        folder: Path,
        version: int,
        kind: WeightsKind,
        *,
        only: Collection[str] | None = None,
        move: bool = False,
        step: int | None = None,
        run: RunName | None = None,
    ) -> WeightVersion:
        """Puts a folder's files into the store as a version; then it can be announced.

        Publishing a version again replaces it: what was not announced was never seen.

        Args:
            only: names of the files; by default all of them.
            move: they are not needed where they are. A store on the same disk takes them as they
                are, without copying.
        """
        paths = [p for p in folder.iterdir() if p.is_file() and (not only or p.name in only)]
        if not paths:
            raise ValueError(f"{folder} holds nothing to publish")
        final = f"{self._root}/{version}"
        target = final if self._is_bucket else f"{self._root}/.{version}.{uuid.uuid4().hex}"
        try:
            if self._is_bucket:
                self._remove(final)
            else:
                self._fs.makedirs(target)  # where a bucket is missing, this would make one
            put = partial(self._put, to=target, move=move)
            files = dict(_in_parallel(put, sorted(paths)))
            manifest = WeightManifest(
                version=version,
                kind=kind,
                files=files,
                step=step,
                run=run,
                created_at=datetime.now(UTC),
            )
            body = manifest.model_dump_json(indent=2).encode()
            self._fs.pipe_file(f"{target}/{MANIFEST}", body)
            if not self._is_bucket:
                self._remove(final)
                self._fs.mv(target, final, recursive=True)
        except BaseException:
            with suppress(Exception):  # a store that is away: the first error says so
                self._remove(target)
            raise
        return WeightVersion(
            version=version,
            kind=kind,
            location=f"{self._uri}/{version}",
            manifest_sha256=hashlib.sha256(body).hexdigest(),
        )

    def _remove(self, folder: str) -> None:
        if self._fs.exists(folder):
            self._fs.rm(folder, recursive=True)

    def _put(self, path: Path, to: str, move: bool) -> tuple[str, WeightFile]:
        target = f"{to}/{path.name}"
        if move and self._local:
            described = _describe(path)
            shutil.move(path, target)
        else:
            with path.open("rb") as source, self._fs.open(target, "wb") as sink:
                described = _copy(source, sink)
        return path.name, described

    def keep_newest(self, count: int, besides: Collection[int] = ()) -> list[int]:
        """Removes all but the newest versions and those `besides`, and what interrupted
        publications left aside.

        Returns the versions removed. Workers serve from copies of their own.
        """
        paths = cast(list[str], self._fs.ls(self._root, detail=False))
        names = [path.rstrip("/").rsplit("/", 1)[-1] for path in paths]
        versions = sorted(int(name) for name in names if name.isdigit())
        old = [v for v in versions[: max(0, len(versions) - count)] if v not in besides]
        for name in [*map(str, old), *(n for n in names if n.startswith("."))]:
            self._fs.rm(f"{self._root}/{name}", recursive=True)
        return old


def fetch(version: WeightVersion, into: Path) -> WeightManifest:
    """Brings a version's files to a folder of one's own, checking every byte.

    Files on the same disk are linked, not copied: a version is removed or replaced as a whole, and
    nobody writes to its files, so a link stays what was checked.

    `into` appears complete or not at all. Raises: BadWeights, with the file and what is wrong.
    """
    aside = into.with_name(f".{into.name}.{uuid.uuid4().hex}")
    try:
        fs, root = _filesystem(version.location)
        aside.mkdir(parents=True)
        manifest = _manifest(fs, root, version)
        get = partial(_get, fs, root, aside)
        _in_parallel(get, manifest.files.items())
        aside.rename(into)
    except BadWeights:
        raise
    except Exception as error:  # each file system has errors of its own
        raise BadWeights(f"{version.location} cannot be read: {_described(error)}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return manifest


def _described(error: Exception) -> str:
    """UnusableAddress speaks for itself."""
    return str(error) if isinstance(error, UnusableAddress) else f"{type(error).__name__}: {error}"


def _get(fs: Any, root: str, aside: Path, file: tuple[str, WeightFile]) -> None:
    name, expected = file
    if Path(name).name != name or name.startswith("."):
        raise BadWeights(f"{name!r} is no plain file name")
    path, mine = f"{root}/{name}", aside / name
    try:
        if _link(fs, path, mine):
            found = _describe(mine)
        else:
            with fs.open(path, "rb") as source, mine.open("wb") as sink:
                found = _copy(source, sink, at_most=expected.bytes)
    except FileNotFoundError:
        raise BadWeights(f"{name} is missing in {root}") from None
    if found != expected:
        raise BadWeights(
            f"{name} differs from its manifest: {found.bytes} bytes with SHA-256 "
            f"{found.sha256[:12]}…, not {expected.bytes} with {expected.sha256[:12]}…"
        )


def _link(fs: Any, path: str, mine: Path) -> bool:
    """Whether it could be: not from a bucket, nor across disks, nor where the system forbids it."""
    if not isinstance(fs, LocalFileSystem):
        return False
    try:
        os.link(os.path.realpath(path), mine)
    except FileNotFoundError:
        raise
    except OSError:
        return False
    return True


def _manifest(fs: Any, root: str, version: WeightVersion) -> WeightManifest:
    try:
        with fs.open(f"{root}/{MANIFEST}", "rb") as file:
            body = cast(bytes, file.read(MAX_MANIFEST_BYTES))
    except FileNotFoundError as error:  # to some file systems, also one that does not answer
        because = f" ({error.__cause__})" if error.__cause__ else ""
        raise BadWeights(f"there is no {MANIFEST} at {version.location}{because}") from None
    if hashlib.sha256(body).hexdigest() != version.manifest_sha256:
        raise BadWeights(f"{MANIFEST} at {version.location} is not the one that was announced")
    try:
        manifest = WeightManifest.model_validate_json(body, **TOLERANT)
    except ValidationError as error:
        raise BadWeights(f"{MANIFEST} cannot be read: {error}") from None
    if (manifest.version, manifest.kind) != (version.version, version.kind):
        raise BadWeights(
            f"{MANIFEST} is of {manifest.kind} version {manifest.version}; "
            f"{version.kind} version {version.version} was announced"
        )
    return manifest


def unknown_scheme(address: str) -> str | None:
    """The first scheme of an address that no library is known to read; None: all are."""
    known = {*fsspec.available_protocols(), ""}
    return next((s for s in _schemes(address) if s not in known), None)


def _schemes(address: str) -> list[str]:
    """Chained ones (`simplecache::s3://…`) in order."""
    return [get_protocol(part) for part in address.split("::")]


def _filesystem(uri: str) -> tuple[Any, str]:
    if (scheme := unknown_scheme(uri)) is not None:
        raise UnusableAddress(
            f"no file system is known by {scheme}://; give the path of a folder, or an address "
            "such as s3://bucket/weights"
        )
    try:
        # No listings are kept: others write there, too.
        fs, root = cast(tuple[Any, str], fsspec.url_to_fs(uri, use_listings_cache=False))  # pyright: ignore[reportUnknownMemberType]
    except ImportError as error:
        extras = [EXTRAS[scheme] for scheme in _schemes(uri) if scheme in EXTRAS]
        install = f"pip install 'prefstream[{extras[0]}]'" if extras else "install it"
        raise UnusableAddress(f"{error}, which is not installed here: {install}") from error
    return fs, root.rstrip("/")


def _in_parallel(do: Callable[[Item], Done], items: Iterable[Item]) -> list[Done]:
    """In daemon threads: one that a store leaves waiting for ever keeps no process from ending."""
    with ThreadPool(PARALLEL_FILES) as threads:
        return threads.map(do, items, chunksize=1)


def _copy(source: IO[bytes], sink: IO[bytes], at_most: float = math.inf) -> WeightFile:
    """Each chunk is written while its sum is made: both let other threads run.

    `at_most`: bytes behind which it is not read on.
    """
    digest, size = hashlib.sha256(), 0
    with ThreadPoolExecutor(1) as writer:
        written = writer.submit(lambda: 0)
        while size <= at_most and (chunk := source.read(CHUNK_BYTES)):
            written.result()
            written = writer.submit(sink.write, chunk)
            digest.update(chunk)
            size += len(chunk)
        written.result()
    return WeightFile(bytes=size, sha256=digest.hexdigest())


def _describe(path: Path) -> WeightFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return WeightFile(bytes=path.stat().st_size, sha256=digest.hexdigest())
