"""Files of rows, written from start to end: lines of JSON, or a table with its pictures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from trainer.export.formats.base import Row

GROUP_ROWS = 1000
GROUP_BYTES = 64 << 20
"""Rows of a table, and bytes of their pictures, that are in memory at once."""


class Shard(Protocol):
    """A file that is being written."""

    @property
    def size(self) -> int:
        """Its bytes so far, and what is to be written."""
        ...

    def write(self, rows: Sequence[Row]) -> None: ...
    def close(self) -> None:
        """Everything is in the file."""
        ...


class JsonLines:
    def __init__(self, file: Path) -> None:
        self._lines = file.open("wb")

    @property
    def size(self) -> int:
        return self._lines.tell()

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._lines.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")

    def close(self) -> None:
        self._lines.close()


class Table:
    """Parquet. Within a group of rows, a picture that several of them have is stored once."""

    def __init__(self, file: Path, features: dict[str, Any]) -> None:
        import datasets
        import pyarrow.parquet as parquet

        # The schema's metadata tell `datasets` which column holds pictures.
        self._schema = datasets.Features(features).arrow_schema
        self._file = file.open("wb")
        self._writer = parquet.ParquetWriter(
            self._file,
            self._schema,
            dictionary_pagesize_limit=2 * GROUP_BYTES,
            write_statistics=False,  # the least and the greatest picture, again
        )
        self._rows: list[Row] = []
        self._pictures = 0

    @property
    def size(self) -> int:
        return self._file.tell() + self._pictures

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._rows.append(row)
            self._pictures += sum(len(picture["bytes"]) for picture in row["images"])
            if len(self._rows) >= GROUP_ROWS or self._pictures >= GROUP_BYTES:
                self._write_group()

    def close(self) -> None:
        try:
            if self._rows:
                self._write_group()
            self._writer.close()
        finally:
            self._file.close()

    def _write_group(self) -> None:
        import pyarrow

        self._writer.write_table(pyarrow.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._pictures = [], 0
