"""The rows of a data set, instead of a run's."""

import random
from collections.abc import Sequence

from trainer.data.example import ImageUnreadable
from trainer.stream.rows import Row
from trainer.stream.usable import LeftOut, RowCheck, UnusableRow


class OfflineRows:
    """Rows of a data set, in a new order each time through."""

    def __init__(
        self, rows: Sequence[Row], *, seed: int, start: int = 0, check: RowCheck | None = None
    ) -> None:
        """`start`: rows that were drawn before; `check`: by which rows are left out.

        Raises: ValueError, without any row.
        """
        if not rows:
            raise ValueError("the data set has no pairs")
        self._rows = rows
        self._seed = seed
        self._next = start
        self._order: tuple[int, list[int]] = (-1, [])
        self._check = check
        self._unusable: set[int] = set()
        self._left_out = LeftOut()

    def draw(self, count: int) -> list[Row]:
        """Raises: ValueError, if none of all rows can be trained on."""
        numbers = range(self._next, self._next + count)
        self._next += count
        return [self._row(number) for number in numbers]

    def _row(self, number: int) -> Row:
        epoch, place = divmod(number, len(self._rows))
        if epoch != self._order[0]:
            order = list(range(len(self._rows)))
            random.Random(f"order of epoch {epoch}, seed {self._seed}").shuffle(order)
            self._order = (epoch, order)
        order = self._order[1]
        for after in range(len(order)):
            if row := self._usable(order[(place + after) % len(order)]):
                return row
        raise ValueError(f"none of the {len(order)} pairs of the data set can be trained on")

    def _usable(self, index: int) -> Row | None:
        """None: the row cannot be trained on. The next one of the order stands in for it, so that
        which row a number draws does not depend on what was drawn before."""
        if index in self._unusable:
            return None
        try:
            row = self._rows[index]
            if self._check:
                self._check.check(row)
        except ImageUnreadable as error:
            why = UnusableRow("image unreadable", str(error))
        except UnusableRow as error:
            why = error
        else:
            return row
        self._unusable.add(index)
        self._left_out.add(f"{index + 1} of the data set", why)
        return None
