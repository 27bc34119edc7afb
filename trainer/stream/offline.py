"""The rows of a data set, instead of a run's."""

import random
from collections.abc import Sequence

from trainer.stream.rows import Row


class OfflineRows:
    """Rows of a data set, in a new order each time through."""

    def __init__(self, rows: Sequence[Row], *, seed: int, start: int = 0) -> None:
        """`start`: rows that were drawn before. Raises: ValueError, without any row."""
        if not rows:
            raise ValueError("the data set has no pairs")
        self._rows = rows
        self._seed = seed
        self._next = start
        self._order: tuple[int, list[int]] = (-1, [])

    def draw(self, count: int) -> list[Row]:
        numbers = range(self._next, self._next + count)
        self._next += count
        return [self._row(number) for number in numbers]

    def _row(self, number: int) -> Row:
        epoch, place = divmod(number, len(self._rows))
        if epoch != self._order[0]:
            order = list(range(len(self._rows)))
            random.Random(f"order of epoch {epoch}, seed {self._seed}").shuffle(order)
            self._order = (epoch, order)
        return self._rows[self._order[1][place]]
