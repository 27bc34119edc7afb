"""Batches of rows: TRL's, and beside its tensors the weight of the rows in the loss."""

from collections.abc import Callable
from typing import Any

from trainer.stream.rows import Row

ROW_WEIGHT = "row_weight"
"""Key of a batch: the weight of its rows in the loss."""


class RowCollator:
    """Makes a batch of rows of one weight, by TRL's collator for vision preference rows."""

    def __init__(self, collate: Callable[[list[dict[str, Any]]], Any]) -> None:
        """`collate`: the trainer's `data_collator`."""
        self._collate = collate

    def __call__(self, rows: list[Row]) -> Any:
        [weight] = {row.weight for row in rows}  # rows come in blocks of one weight
        batch = self._collate([row.columns() for row in rows])
        batch[ROW_WEIGHT] = weight
        return batch
