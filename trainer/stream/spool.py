"""Pictures that come in a data set's rows, kept on disk instead of in memory."""

import hashlib
import os
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a picture's bytes lie in the spool."""

    offset: int
    length: int


class ImageSpool:
    """A file without a name, which goes with the process; each picture is in it once."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: on whose disk; by default that of temporary files."""
        self._descriptor, name = tempfile.mkstemp(prefix=".pictures-", dir=folder)
        Path(name).unlink()
        weakref.finalize(self, os.close, self._descriptor)
        self._slots: dict[bytes, Slot] = {}
        self._end = 0

    def add(self, content: bytes) -> Slot:
        """Raises: OSError, on a full disk."""
        digest = hashlib.sha256(content).digest()
        if digest not in self._slots:
            written = 0
            while written < len(content):
                rest = memoryview(content)[written:]
                written += os.pwrite(self._descriptor, rest, self._end + written)
            self._slots[digest] = Slot(self._end, len(content))
            self._end += len(content)
        return self._slots[digest]

    def read(self, slot: Slot) -> bytes:
        """From any thread."""
        return os.pread(self._descriptor, slot.length, slot.offset)
