"""Where trainers leave weights and workers find them: a folder or a bucket, through fsspec.

A version is one folder, complete or absent: it is written under another name, then renamed. Its
manifest lists every file with its SHA-256, and the announcement names the manifest's own hash, so
that a worker loads what the trainer wrote or nothing.
"""

import hashlib
import shutil
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

import fsspec  # type: ignore[import-untyped]
from pydantic import ValidationError

from service.schemas import RunName, WeightFile, WeightManifest, WeightsKind, WeightVersion

MANIFEST = "manifest.json"

CHUNK = 2**20


class BadWeights(ValueError):
    """A version's folder is not what was announced. Says what differs."""


class WeightStore:
    """Versions under one root, such as `/shared/weights` or `s3://bucket/weights`."""

    def __init__(self, root: str):
        self._fs, self._root = _filesystem(root)
        self._uri = str(self._fs.unstrip_protocol(self._root))

    def publish(
        self,
        folder: Path,
        version: int,
        kind: WeightsKind,
        *,
        step: int | None = None,
        run: RunName | None = None,
    ) -> WeightVersion:
        """Copies a folder's files into the store as a version; then it can be announced.

        Publishing a version again replaces it: what was not announced was never seen.
        """
        aside = f"{self._root}/.{version}.{uuid.uuid4().hex}"
        self._fs.makedirs(aside)
        try:
            files: dict[str, WeightFile] = {}
            for path in sorted(p for p in folder.iterdir() if p.is_file()):
                with path.open("rb") as source, self._fs.open(f"{aside}/{path.name}", "wb") as sink:
                    files[path.name] = _copy(source, sink)
            manifest = WeightManifest(
                version=version,
                kind=kind,
                files=files,
                step=step,
                run=run,
                created_at=datetime.now(UTC),
            )
            body = manifest.model_dump_json(indent=2).encode()
            with self._fs.open(f"{aside}/{MANIFEST}", "wb") as sink:
                sink.write(body)
            final = f"{self._root}/{version}"
            if self._fs.exists(final):
                self._fs.rm(final, recursive=True)
            self._fs.mv(aside, final, recursive=True)
        except BaseException:
            if self._fs.exists(aside):
                self._fs.rm(aside, recursive=True)
            raise
        return WeightVersion(
            version=version,
            kind=kind,
            location=f"{self._uri}/{version}",
            manifest_sha256=hashlib.sha256(body).hexdigest(),
        )

    def keep_newest(self, count: int) -> list[int]:
        """Removes all but the newest versions, and what interrupted publications left aside.

        Returns the versions removed. Workers serve from copies of their own.
        """
        paths = cast(list[str], self._fs.ls(self._root, detail=False))
        names = [path.rstrip("/").rsplit("/", 1)[-1] for path in paths]
        versions = sorted(int(name) for name in names if name.isdigit())
        old = versions[: max(0, len(versions) - count)]
        for name in [*map(str, old), *(n for n in names if n.startswith("."))]:
            self._fs.rm(f"{self._root}/{name}", recursive=True)
        return old


def fetch(version: WeightVersion, into: Path) -> WeightManifest:
    """Copies a version's files to a folder of one's own, checking every byte.

    `into` appears complete or not at all. Raises: BadWeights, with the file and what is wrong.
    """
    fs, root = _filesystem(version.location)
    aside = into.with_name(f".{into.name}.{uuid.uuid4().hex}")
    aside.mkdir(parents=True)
    try:
        manifest = _manifest(fs, root, version)
        for name, expected in manifest.files.items():
            if Path(name).name != name or name.startswith("."):
                raise BadWeights(f"{name!r} is no plain file name")
            try:
                with fs.open(f"{root}/{name}", "rb") as source, (aside / name).open("wb") as sink:
                    copied = _copy(source, sink)
            except FileNotFoundError:
                raise BadWeights(f"{name} is missing at {version.location}") from None
            if copied != expected:
                raise BadWeights(
                    f"{name} differs from its manifest: {copied.bytes} bytes with SHA-256 "
                    f"{copied.sha256[:12]}…, not {expected.bytes} with {expected.sha256[:12]}…"
                )
        aside.rename(into)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return manifest


def _manifest(fs: Any, root: str, version: WeightVersion) -> WeightManifest:
    try:
        body = cast(bytes, fs.cat_file(f"{root}/{MANIFEST}"))
    except FileNotFoundError:
        raise BadWeights(f"there is no {MANIFEST} at {version.location}") from None
    if hashlib.sha256(body).hexdigest() != version.manifest_sha256:
        raise BadWeights(f"{MANIFEST} at {version.location} is not the one that was announced")
    try:
        manifest = WeightManifest.model_validate_json(body)
    except ValidationError as error:
        raise BadWeights(f"{MANIFEST} cannot be read: {error}") from None
    if (manifest.version, manifest.kind) != (version.version, version.kind):
        raise BadWeights(
            f"{MANIFEST} is of {manifest.kind} version {manifest.version}; "
            f"{version.kind} version {version.version} was announced"
        )
    return manifest


def _filesystem(uri: str) -> tuple[Any, str]:
    fs, root = cast(tuple[Any, str], fsspec.url_to_fs(uri))  # pyright: ignore[reportUnknownMemberType]
    return fs, root.rstrip("/")


def _copy(source: IO[bytes], sink: IO[bytes]) -> WeightFile:
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        size += len(chunk)
        sink.write(chunk)
    return WeightFile(bytes=size, sha256=digest.hexdigest())
