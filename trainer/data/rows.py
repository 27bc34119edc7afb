"""The rows of files, folders and hub data sets, one at a time."""

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from trainer.data.example import InvalidDataset

SUFFIXES = (".json", ".jsonl", ".parquet")
PARQUET_ROWS = 32
"""Rows of a parquet file in memory at once: they carry their images."""


@dataclass(frozen=True, slots=True)
class Row:
    number: int
    """In the whole data set, from 1."""
    place: str
    """The file and the row in it, for people."""
    folder: Path
    """Where names of images may be relative to."""
    columns: dict[str, Any] | None
    """None: it cannot be read, because of `error`."""
    error: str = ""


def rows(dataset: str) -> Iterator[Row]:
    """Raises: InvalidDataset."""
    path = Path(dataset).expanduser()
    if path.is_file():
        yield from _of_files([path])
    elif (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        yield from _saved(path)
    elif path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix in SUFFIXES)
        if not files:
            raise InvalidDataset(f"{path} has no file that ends in {', '.join(SUFFIXES)}.")
        yield from _of_files(files)
    elif path.suffix in SUFFIXES or dataset.startswith((".", "/", "~")):
        raise InvalidDataset(f"There is no {path}.")
    else:
        yield from _of_hub(dataset)


def _of_files(files: list[Path]) -> Iterator[Row]:
    number = 0
    for file in files:
        if file.suffix not in SUFFIXES:
            raise InvalidDataset(f"{file} does not end in {', '.join(SUFFIXES)}.")
        for index, found in enumerate(_of_file(file), start=1):
            number += 1
            place = f"{file.name}, row {index}"
            if isinstance(found, dict):
                yield Row(number, place, file.parent, found)
            else:
                error = str(found) if isinstance(found, ValueError) else "is not an object"
                yield Row(number, place, file.parent, None, error)


def _of_file(file: Path) -> Iterator[Any]:
    """Each row as it is parsed; a ValueError in place of one that is not JSON."""
    if file.suffix == ".jsonl":
        yield from _of_json_lines(file)
    elif file.suffix == ".json":
        yield from _of_json(file)
    else:
        import pyarrow.parquet as parquet

        with parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=PARQUET_ROWS):
                yield from batch.to_pylist()


def _of_json_lines(file: Path) -> Iterator[Any]:
    with _opened(file) as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                yield ValueError(f"is not JSON: {error}")


def _of_json(file: Path) -> Iterator[Any]:
    """The objects of an array; or lines of JSON, which some publish under this name, too."""
    import ijson

    with _opened(file) as content:
        start = content.read(4096).lstrip()[:1]
    if start == b"{":
        yield from _of_json_lines(file)
        return
    with _opened(file) as content:
        try:
            yield from ijson.items(content, "item", use_float=True)
        except (ijson.JSONError, ValueError) as error:
            raise InvalidDataset(f"{file} is not a JSON array (any more): {error}") from error


def _opened(file: Path) -> BinaryIO:
    """Open after the mark that some systems put in front of UTF-8."""
    content = file.open("rb")
    start = content.read(3)
    if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        content.close()
        raise InvalidDataset(f"{file} is UTF-16: save it as UTF-8.")
    content.seek(3 if start == codecs.BOM_UTF8 else 0)
    return content


def _saved(folder: Path) -> Iterator[Row]:
    """What `datasets` wrote with `save_to_disk`; of several splits, the one named train."""
    import datasets

    saved = datasets.load_from_disk(str(folder))
    if isinstance(saved, datasets.DatasetDict):
        saved = _split(dict(saved), str(folder))
    yield from _of_datasets(saved.to_iterable_dataset(), folder.name, folder)


def _of_hub(name: str) -> Iterator[Row]:
    """Streamed, without a copy on this machine."""
    import datasets

    repository, _, split = name.partition(":")
    try:
        loaded = datasets.load_dataset(repository, streaming=True, split=split or None)
    except Exception as error:  # it raises what its back ends raise
        raise InvalidDataset(
            f"{name!r} is no file or folder here, and it cannot be read from the hub either: "
            f"{type(error).__name__}: {error}"
        ) from error
    if isinstance(loaded, dict):
        loaded = _split(loaded, name)
    yield from _of_datasets(loaded, name, Path())


def _split(splits: dict[Any, Any], name: str) -> Any:
    if "train" in splits:
        return splits["train"]
    if len(splits) == 1:
        return next(iter(splits.values()))
    raise InvalidDataset(
        f"{name} has the splits {', '.join(map(str, splits))}. Name one: {name}:SPLIT."
    )


def _of_datasets(stream: Any, name: str, folder: Path) -> Iterator[Row]:
    if stream.features:
        stream = stream.decode(False)  # images as the bytes that they were saved with
    for number, columns in enumerate(stream, start=1):
        yield Row(number, f"{name}, row {number}", folder, columns)
