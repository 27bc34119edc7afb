"""The pairs of a data set, as rows of an optimizer step: for training without, or beside, a run."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import overload

import structlog

from service.schemas import Outcome, Pair, outcome_of_texts, visible
from trainer import data
from trainer.data import Example, InvalidDataset
from trainer.data.example import ImageSource
from trainer.data.images import load_image
from trainer.stream.rows import Row
from trainer.stream.spool import ImageSpool, Slot

log = structlog.get_logger()


class PairDataset(Sequence[Row]):
    """All examples of a data set that `prefstream feed` reads, with two sides each that differ and
    say something; how many are not is logged.

    Texts and names are in memory. Image files are read when a row is; pictures that are in the
    rows themselves (parquet, the hub) are put on disk meanwhile.
    """

    def __init__(
        self,
        name: str,
        *,
        images: Sequence[Path] = (),
        chosen_alone: bool = False,
        spool: Path | None = None,
    ) -> None:
        """`images`: folders in which they are looked for, before the data set's own;
        `chosen_alone`: the rejected side will have no effect, so it may be missing; `spool`: a
        folder on the disk that takes the pictures of rows, by default that of temporary files.

        Raises: InvalidDataset, InvalidRow, OSError.
        """
        if name == data.TOY:
            raise InvalidDataset(
                "the shapes world has no end, and no rejected sides; feed it into a run"
            )
        self._examples: list[Example] = []
        self._images: list[tuple[ImageSource | Slot, ...]] = []
        self._spool = ImageSpool(spool)
        self._created_at = datetime.now(UTC)
        outcomes: Counter[str] = Counter()
        for example in data.read(name, images=images):
            if example.rejected is None and not chosen_alone:
                raise data.InvalidRow(example.place, "has no rejected side, so it is no pair")
            outcome = _outcome(example, chosen_alone)
            outcomes[outcome] += 1
            if outcome is Outcome.pair:
                self._images.append(tuple(map(self._kept, example.images)))
                self._examples.append(replace(example, images=()))
        if len(outcomes) > 1:
            log.warning("examples that are no preference are left out", data=name, **outcomes)

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        images = [
            load_image(self._spool.read(source) if isinstance(source, Slot) else source)
            for source in self._images[index]
        ]
        return Row(self._pair(self._examples[index]), images, staleness=None)

    def _kept(self, source: ImageSource) -> ImageSource | Slot:
        return self._spool.add(source) if isinstance(source, bytes) else source

    def _pair(self, example: Example) -> Pair:
        rejected = example.chosen if example.rejected is None else example.rejected
        return Pair.offline(
            prompt=example.messages,
            images=[],  # the row has their bytes
            chosen=example.chosen,
            rejected=rejected,
            pair_id=str(example.metadata.get("pair_id", f"{example.place} ({example.key})")),
            run=None,
            created_at=self._created_at,
            metadata=example.metadata,
        )


def _outcome(example: Example, chosen_alone: bool) -> Outcome:
    if not chosen_alone:
        return outcome_of_texts(example.chosen, example.rejected or "")
    return Outcome.pair if visible(example.chosen) else Outcome.empty
