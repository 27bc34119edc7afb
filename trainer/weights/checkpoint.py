"""Checkpoints that are complete or do not count.

transformers writes a checkpoint's files one after the other into its final folder. What makes it a
checkpoint of ours is the record, written last and at once, when all other files are on disk: a
folder without a record is one that a crash cut short.
"""

import re
import shutil
from pathlib import Path
from typing import Literal, Self

import structlog
from pydantic import BaseModel, ConfigDict

from trainer.files import flush_to_disk, write_atomically

log = structlog.get_logger()

RECORD = "prefstream.json"

FOLDER = re.compile(r"^checkpoint-(\d+)$")


class CheckpointRecord(BaseModel):
    """What a checkpoint says of the stream."""

    model_config = ConfigDict(extra="forbid")

    step: int
    """Optimizer steps in it."""
    run: str
    group: str
    train: Literal["lora", "full"] = "lora"
    """What it holds: an adapter, or all weights."""
    pairs: int
    """Pairs in it, from the start of the line."""
    unacknowledged: list[str]
    """Ids of pairs in it that may be delivered again."""
    leases: dict[str, list[str]]
    """Leases to be acknowledged now that it counts, with the ids of their pairs."""
    version: int
    """Newest weight version that was published by then; 0: none."""

    @classmethod
    def read(cls, checkpoint: Path) -> Self:
        return cls.model_validate_json((checkpoint / RECORD).read_bytes())


def commit(checkpoint: Path, record: CheckpointRecord) -> None:
    """Makes a checkpoint count, once every file in it is on disk."""
    for path in checkpoint.rglob("*"):
        if path.is_file():
            flush_to_disk(path)
    write_atomically(checkpoint / RECORD, record.model_dump_json(indent=2).encode())
    flush_to_disk(checkpoint.parent)


def newest(output: Path) -> Path | None:
    """The newest checkpoint that counts. Folders of those that a crash cut short are removed."""
    complete: list[Path] = []
    for path in _folders(output):
        if (path / RECORD).is_file():
            complete.append(path)
        else:
            log.warning("removing a checkpoint that was cut short", folder=str(path))
            shutil.rmtree(path)
    return complete[-1] if complete else None


def has_checkpoints(output: Path) -> bool:
    """Whether there are checkpoints, ours or another's, complete or not."""
    return bool(_folders(output))


def keep_newest(output: Path, count: int) -> None:
    """Removes older ones. A removal that is cut short leaves one that does not count."""
    for path in _folders(output)[:-count]:
        (path / RECORD).unlink(missing_ok=True)
        shutil.rmtree(path)


def _folders(output: Path) -> list[Path]:
    """By step, ascending."""
    found = [
        (int(match[1]), path)
        for path in (output.iterdir() if output.is_dir() else ())
        if (match := FOLDER.match(path.name)) and path.is_dir()
    ]
    return [path for _, path in sorted(found)]
