"""Pairs in a file, as `prefstream demo` and `prefstream experiment` leave them: JSONL, a TRL vision
preference row a line, with its images beside the file."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, overload

from service.schemas import Message, Pair
from trainer.stream import Row


class PairFile(Sequence[Row]):
    """The file's pairs. Images are read when a row is."""

    def __init__(self, path: Path) -> None:
        """Raises: OSError; ValueError, naming the line."""
        self._folder = path.parent
        self._pairs = [
            _pair(line, f"{path}, line {number}")
            for number, line in enumerate(path.read_text().splitlines(), 1)
        ]

    def __len__(self) -> int:
        return len(self._pairs)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        pair = self._pairs[index]
        images = [(self._folder / name).read_bytes() for name in pair.images]
        return Row(pair, images, staleness=None)


def _pair(line: str, where: str) -> Pair:
    try:
        row: dict[str, Any] = json.loads(line)
        return Pair(
            prompt=[Message.model_validate(turn) for turn in row["prompt"]],
            images=row["images"],
            chosen=[Message.model_validate(turn) for turn in row["chosen"]],
            rejected=[Message.model_validate(turn) for turn in row["rejected"]],
            pair_id=row.get("pair_id", where),
            run=None,
            method="offline",
            chosen_version=None,
            rejected_version=None,
            rejected_spans=[],
            similarity=None,
            iterations=None,
            seed=None,
            created_at=row.get("created_at", datetime.now(UTC)),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{where} is no pair: {error!r}") from error
