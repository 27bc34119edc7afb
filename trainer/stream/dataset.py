"""The pairs of a data set, as rows of an optimizer step: for training without, or beside, a run."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import overload

from service.schemas import Pair
from trainer import data
from trainer.data import Example, InvalidDataset
from trainer.data.images import load_image
from trainer.stream.rows import Row


class PairDataset(Sequence[Row]):
    """All examples of a data set that `prefstream feed` reads, with two sides each.

    Texts and names are in memory; image files are read when a row is.
    """

    def __init__(
        self, name: str, *, images: Sequence[Path] = (), chosen_alone: bool = False
    ) -> None:
        """`images`: folders in which they are looked for, before the data set's own;
        `chosen_alone`: the rejected side will have no effect, so it may be missing.

        Raises: InvalidDataset, InvalidRow.
        """
        if name == data.TOY:
            raise InvalidDataset(
                "the shapes world has no end, and no rejected sides; feed it into a run"
            )
        self._examples = list(data.read(name, images=images))
        self._created_at = datetime.now(UTC)
        for example in self._examples:
            if example.rejected is None and not chosen_alone:
                raise data.InvalidRow(example.place, "has no rejected side, so it is no pair")

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        example = self._examples[index]
        images = [load_image(source) for source in example.images]
        return Row(self._pair(example), images, staleness=None)

    def _pair(self, example: Example) -> Pair:
        rejected = example.chosen if example.rejected is None else example.rejected
        return Pair.offline(
            prompt=example.messages,
            images=[],  # the row has their bytes
            chosen=example.chosen,
            rejected=rejected,
            pair_id=str(example.metadata.get("pair_id", example.place)),
            run=None,
            created_at=self._created_at,
            metadata=example.metadata,
        )
