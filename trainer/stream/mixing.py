"""Rows from a run and a data set: either by chance (Mixed-DPO), or both at once (averaged DPO).

What these draw from a data set, and when, is a function of the seed and of how many examples
the line of checkpoints has had. So a resumed trainer goes on with the examples it would have had,
and nothing of it has to be saved.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from service.schemas import assistant_turn, visible
from trainer.data import SECOND_REJECTED
from trainer.stream.offline import OfflineRows
from trainer.stream.rows import Row, RowSource
from trainer.stream.usable import RowCheck, UnusableRow

POLICY_FIELDS = ("token_ids", "token_spans", "logprobs", "finish_reason")
"""What a pair says of a side that the policy wrote."""


class MixedRows:
    """Mixed-DPO: each example is an offline pair with probability p, or else an online one."""

    def __init__(
        self,
        online: RowSource,
        rows: Sequence[Row],
        *,
        p: float,
        seed: int,
        start: int = 0,
        check: RowCheck | None = None,
    ) -> None:
        """`start`: examples that were drawn before; `check`: of the data set's rows.

        Raises: ValueError, without any row.
        """
        self._online = online
        self._p = p
        self._seed = seed
        self._next = start
        before = sum(map(self._is_offline, range(start)))
        self._offline = OfflineRows(rows, seed=seed, start=before, check=check)

    def draw(self, count: int) -> list[Row]:
        offline = [self._is_offline(number) for number in range(self._next, self._next + count)]
        # The run first: it may raise Stopped, and then nothing has been drawn.
        online_rows = iter(self._online.draw(offline.count(False)))
        offline_rows = iter(self._offline.draw(offline.count(True)))
        self._next += count
        return [next(offline_rows if is_offline else online_rows) for is_offline in offline]

    def _is_offline(self, number: int) -> bool:
        """α of example `number`, drawn from Bernoulli(p)."""
        return random.Random(f"example {number}, seed {self._seed}").random() < self._p


class AveragedRows:
    """Averaged DPO: γ·L(y⁺, y⁻) + (1 − γ)·L(y⁺, ỹ⁻), y⁻ from a data set and ỹ⁻ from the policy.

    A pair becomes two rows, whose weights make the mean over all rows that sum's mean over pairs.
    """

    def __init__(self, online: RowSource, *, gamma: float) -> None:
        self._online = online
        self._gamma = gamma

    def draw(self, count: int) -> list[Row]:
        """Twice `count` rows: those with y⁻, and in the same order those with ỹ⁻.

        Raises: Stopped.
        """
        rows = self._online.draw(count)
        first = [replace(with_second(row), weight=2 * self._gamma, staleness=None) for row in rows]
        return first + [replace(row, weight=2 * (1 - self._gamma)) for row in rows]


def with_second(row: Row) -> Row:
    """The row with the data set's rejected side in place of the policy's.

    Raises: UnusableRow, without one.
    """
    text = row.pair.metadata.get(SECOND_REJECTED)
    if not isinstance(text, str):
        raise UnusableRow(
            "no second side",
            "`method` = averaged wants the data set's rejected side as a text in the pair's "
            f"`metadata`, under {SECOND_REJECTED!r}. Post the jobs of this run with it, or train "
            "with `method` = online.",
        )
    if not visible(text):
        raise UnusableRow("empty", f"`metadata` has an empty text under {SECOND_REJECTED!r}")
    no_tokens = {f"rejected_{name}": None for name in POLICY_FIELDS}
    pair = row.pair.model_copy(update={"rejected": [assistant_turn(text)], **no_tokens})
    return replace(row, pair=pair)
