"""Files that are whole, whenever a process dies or power fails."""

import os
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """The file has its old content or this, and this is on disk when it returns."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.new")
    aside.write_bytes(content)
    flush_to_disk(aside)
    aside.replace(path)
    flush_to_disk(path.parent)


def flush_to_disk(path: Path) -> None:
    """fsync, of a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
