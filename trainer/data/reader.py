"""Data sets as streams of examples, in the layouts in which they are published (docs/data.md).

    for example in read("POVID_preference_data_for_VLLMs.json", images=[Path("coco")]):
        ...

Nothing is held in memory but the row at hand.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer.data import llava_instruct, llava_rlhf, povid, rlhf_v, toy, trl, vlfeedback
from trainer.data.example import DatasetFormat, Example, InvalidDataset, InvalidRow
from trainer.data.images import find_image
from trainer.data.rows import Row, rows

FORMATS: dict[str, DatasetFormat] = {
    "povid": povid,
    "llava-rlhf": llava_rlhf,
    "vlfeedback": vlfeedback,
    "rlhf-v": rlhf_v,
    "trl": trl,
    "llava-instruct": llava_instruct,
}
"""By the name that `--format` takes, in the order in which a data set is tried for."""

TOY = "toy"
"""Names the shapes world, which needs no file and has no end."""


def read(
    dataset: str,
    *,
    dataset_format: str | None = None,
    images: Sequence[Path] = (),
    on_invalid: Callable[[InvalidRow], None] | None = None,
) -> Iterator[Example]:
    """The examples of a data set, in order.

    Args:
        dataset: `toy`; a file (.json, .jsonl, .parquet); a folder of such files, or one that
            `datasets` saved; or a data set of the hub, as `owner/name` or `owner/name:split`.
        dataset_format: a key of `FORMATS`; by default, what the first row looks like.
        images: folders in which images are looked for, before the data set's own.
        on_invalid: is told of a row that cannot be used, which is then left out.

    Raises:
        InvalidDataset: there is no such data set, or its layout is none of these.
        InvalidRow: a row that cannot be used, unless there is `on_invalid`.
    """
    if dataset == TOY:
        yield from toy.examples()
        return
    reader = None if dataset_format is None else FORMATS[dataset_format]
    for row in rows(dataset):
        try:
            if row.columns is None:
                raise InvalidRow(row.place, row.error, "not JSON")
            reader = reader or _format_of(row)
            for part, found in enumerate(_examples(reader, row.columns)):
                yield replace(
                    found,
                    key=f"{row.number}.{part}",
                    place=row.place,
                    images=tuple(find_image(name, [*images, row.folder]) for name in found.images),
                )
        except InvalidRow as bad:
            if on_invalid is None:
                raise
            on_invalid(bad)
        except ValueError as error:
            bad = InvalidRow.of(row.place, error)
            if on_invalid is None:
                raise bad from error
            on_invalid(bad)


def _examples(reader: DatasetFormat, columns: dict[str, Any]) -> Iterator[Example]:
    """Raises: ValueError, whatever is wrong with the row."""
    try:
        for example in reader.examples(columns):
            texts = [example.chosen, example.rejected or ""]
            if not all(isinstance(text, str) for text in texts):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ValueError("a response that is no text")
            if not example.messages or example.messages[-1].role != "user":
                raise ValueError("a conversation that does not end with a user's turn")
            yield example
    except KeyError as error:
        raise ValueError(f"has no field {error}") from error
    except (TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"is not laid out as it should be: {error}") from error


def _format_of(row: Row) -> DatasetFormat:
    assert row.columns is not None
    for dataset_format in FORMATS.values():
        if dataset_format.matches(row.columns):
            return dataset_format
    raise InvalidDataset(
        f"{row.place} has the columns {', '.join(row.columns)}, which is none of the known layouts "
        f"({', '.join(FORMATS)}). Name the layout with --format, or convert to TRL's: prompt, "
        "images, chosen, rejected."
    )
