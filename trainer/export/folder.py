"""The folder of an export, which a process may leave at any moment.

    README.md      the card
    data/          shards: whole files, never one that is being written
    images/        pictures, of formats with files, each once under its SHA-256
    export.json    what is in the shards, and the cursor after it: the record
    .writing/      the shard at hand

The record is what counts. A shard gets its name once it is complete, and then the record is
replaced by one that lists it. Who comes back removes what the record does not list, and reads on
from its cursor: so no row is there twice, and none is missing.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ValidationError

from service.schemas import PairFilters
from trainer.export.formats.base import Row
from trainer.export.plan import ExportError
from trainer.export.shards import Shard
from trainer.export.tally import Tally
from trainer.files import flush_to_disk, write_atomically

RECORD = "export.json"
SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp"}
"""By what the bytes of a picture start with."""


class ShardRecord(BaseModel):
    name: str
    """Below the folder."""
    rows: int
    size: int
    """Bytes."""


class Record(BaseModel):
    """What is exported, and how far it has come."""

    run: str
    epoch: str
    """Of the run's log."""
    format: str
    where: PairFilters
    cursor: str | None = None
    shards: list[ShardRecord] = []
    tally: Tally = Tally()


class Folder:
    """Held by one process at a time."""

    def __init__(
        self, path: Path, record: Record, suffix: str, open_shard: Callable[[Path], Shard]
    ) -> None:
        """Opens or begins an export. `record`: a fresh one; `suffix`: of its shards.

        Raises: ExportError.
        """
        self.path = path
        self.record = record
        self.rows = 0
        """Of the shard at hand."""
        self._suffix = suffix
        self._open_shard = open_shard
        self._shard: Shard | None = None
        self._opened = 0.0
        self._writing = path / ".writing"
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ExportError(f"{path} is a file, or lies below one. Name a folder.") from None
        self._lock = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._resume()
        except BaseException as error:
            os.close(self._lock)
            if isinstance(error, BlockingIOError):
                raise ExportError(f"Another process is exporting to {path}.") from None
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """What no record lists is gone."""
        if self._shard is not None:
            with suppress(OSError):  # the disk may be full; the file goes anyway
                self._shard.close()
        shutil.rmtree(self._writing)
        os.close(self._lock)

    @property
    def size(self) -> int:
        """Bytes of the shard at hand."""
        return 0 if self._shard is None else self._shard.size

    @property
    def age_s(self) -> float:
        """Seconds since the shard at hand was begun."""
        return 0.0 if self._shard is None else time.monotonic() - self._opened

    def append(self, rows: Sequence[Row]) -> None:
        """Rows, to the shard at hand."""
        if rows and self._shard is None:
            self._shard, self._opened = (
                self._open_shard(self._writing / self._name),
                time.monotonic(),
            )
        if self._shard is not None:
            self._shard.write(rows)
            self.rows += len(rows)

    def commit(self, cursor: str | None, tally: Tally) -> None:
        """All pairs up to the cursor are done with: their rows are in shards that are whole."""
        update = {"cursor": cursor, "tally": tally.model_copy(deep=True)}
        if self._shard is not None:
            self._shard.close()
            written, name = self._writing / self._name, f"data/{self._name}"
            flush_to_disk(written)
            size = written.stat().st_size
            written.replace(self.path / name)
            flush_to_disk(self.path / "data")
            added = ShardRecord(name=name, rows=self.rows, size=size)
            update["shards"] = [*self.record.shards, added]
            self._shard, self.rows = None, 0
        self.record = self.record.model_copy(update=update)
        self._write_record()

    def write(self, name: str, content: str) -> None:
        """A small file, at once."""
        write_atomically(self.path / name, content.encode())

    def picture(self, ref: str) -> str | None:
        """Name of the file of a picture, if it is there."""
        stem = _picture_stem(ref)
        names = (f"{stem}{suffix}" for suffix in SUFFIXES.values())
        return next((name for name in names if (self.path / name).exists()), None)

    def add_picture(self, ref: str, content: bytes) -> str:
        """Writes the file of a picture, and returns its name."""
        name = picture_name(ref, content)
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = self._writing / path.name
        aside.write_bytes(content)
        aside.replace(path)
        return name

    def _write_record(self) -> None:
        self.write(RECORD, self.record.model_dump_json(indent=1, exclude_none=True) + "\n")

    @property
    def _name(self) -> str:
        return f"train-{len(self.record.shards):05}.{self._suffix}"

    def _resume(self) -> None:
        fresh = self.record
        try:
            self.record = Record.model_validate_json((self.path / RECORD).read_bytes())
        except FileNotFoundError:
            if any(not file.name.startswith(".") for file in self.path.iterdir()):
                raise ExportError(
                    f"{self.path} has files and no {RECORD}: it is no export. Name another folder."
                ) from None
            self._write_record()  # before any shard: what has none is somebody else's
        except ValidationError as error:
            raise ExportError(f"{self.path / RECORD} cannot be read: {error}") from None
        self._compare(fresh)
        data, listed = self.path / "data", {shard.name for shard in self.record.shards}
        for name in listed:
            if not (self.path / name).is_file():
                raise ExportError(f"{self.path / name} is gone. Export to another folder.")
        data.mkdir(exist_ok=True)
        for file in (*data.iterdir(), *self.path.glob(".*.new")):
            if f"data/{file.name}" not in listed:
                file.unlink()
        shutil.rmtree(self._writing, ignore_errors=True)
        self._writing.mkdir()

    def _compare(self, fresh: Record) -> None:
        """Raises: ExportError, if another export is here."""
        for name, what in (("run", "of run"), ("format", "to"), ("where", "with --where")):
            here, asked = getattr(self.record, name), getattr(fresh, name)
            if here != asked:
                if isinstance(here, PairFilters):
                    here = here.model_dump_json(exclude_none=True)
                raise ExportError(
                    f"{self.path} is an export {what} {here}. Repeat that command, or name another "
                    "folder."
                )
        if self.record.epoch != fresh.epoch:
            raise ExportError(
                f"{self.path} is an export of another log of run {fresh.run}: the run was made "
                "anew since. Name another folder."
            )


def picture_name(ref: str, content: bytes) -> str:
    """Of the file of a picture, below the folder of an export."""
    suffixes = (suffix for start, suffix in SUFFIXES.items() if content.startswith(start))
    return _picture_stem(ref) + next(suffixes, "")


def _picture_stem(ref: str) -> str:
    """Folders of a 256th each: hubs and file systems dislike a million files in one."""
    digest = ref.removeprefix("sha256:")
    return f"images/{digest[:2]}/{digest}"
