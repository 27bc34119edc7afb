"""Fresh pairs of a run, as they are made."""

from collections.abc import Callable
from functools import lru_cache

from service.checkpoints.input_processor import InputProcessor
from service.client import Client, ImageGone, RunNotFound
from service.schemas import Pair
from trainer.stream.inputs import check_digest
from trainer.stream.ledger import Ledger
from trainer.stream.rows import Row
from trainer.stream.usable import LeftOut, RowCheck, UnusableRow
from trainer.waiting import PAUSE_S, Waiter

IMAGES_CACHED = 128
"""Encoded images that are kept; questions about one image tend to come together."""


class OnlineRows:
    """Fresh pairs of a run, leased for as long as the ledger holds them."""

    def __init__(
        self,
        client: Client,
        ledger: Ledger,
        waiter: Waiter,
        inputs: InputProcessor,
        *,
        run: str,
        group: str,
        lease_s: float,
        second: Callable[[Row], Row] | None = None,
    ) -> None:
        """`second`: another row that is made of each, and must be usable, too; it may raise
        UnusableRow."""
        self._client = client
        self._ledger = ledger
        self._waiter = waiter
        self._inputs = inputs
        self._run = run
        self._group = group
        self._lease_s = lease_s
        self._second = second
        self._check = RowCheck(inputs)
        self._left_out = LeftOut()
        self._image = lru_cache(maxsize=IMAGES_CACHED)(client.image)

    def draw(self, count: int) -> list[Row]:
        """Raises: Stopped, DifferentInputs."""
        rows: list[Row] = []
        while len(rows) < count:
            self._waiter.raise_if_stopped()
            have = len(rows)
            new = self._waiter.retry(lambda n=have: self._lease(count - n))
            rows += [row for pair in new or () if (row := self._row(*pair))]
            if new:
                self._waiter.done()
            elif new is None:
                self._waiter.pause("waiting for the run's first job", PAUSE_S, self._name)
            else:
                self._waiter.pause("waiting for pairs", 0, lambda n=have: self._status(n, count))
        return rows

    def _lease(self, count: int) -> list[tuple[Pair, int | None]] | None:
        """New pairs that came within a second, perhaps none, each with its staleness.

        None: there is no such run yet.
        """
        try:
            leased = self._client.lease(
                self._run, group=self._group, size=count, lease_s=self._lease_s, wait_s=PAUSE_S
            )
        except RunNotFound:
            return None
        if leased is None:
            return []
        staleness = {
            pair.pair_id: delivery.staleness
            for pair, delivery in zip(leased.pairs, leased.deliveries, strict=True)
        }
        return [(pair, staleness[pair.pair_id]) for pair in self._ledger.add_lease(leased)]

    def _row(self, pair: Pair, staleness: int | None) -> Row | None:
        """None: it cannot be trained on. The pair is done with, as if it had been used."""
        check_digest(self._inputs.digest, pair.input_digest, f"Pair {pair.pair_id} was made")
        try:
            images = [self._waiter.retry(lambda r=ref: self._image(r)) for ref in pair.images]
            row = Row(pair, images, staleness)
            self._check.check(row)
            if self._second:
                self._check.check(self._second(row))
        except (ImageGone, UnusableRow) as error:
            if isinstance(error, ImageGone):
                error = UnusableRow("image gone", error.problem.detail)
            self._left_out.add(pair.pair_id, error)
            self._ledger.mark_unusable([pair.pair_id])
            return None
        self._left_out.used()
        return row

    def _name(self) -> dict[str, object]:
        return {"run": self._run}

    def _status(self, have: int, want: int) -> dict[str, object]:
        """What a person who waits wants to know."""
        run = self._waiter.retry(lambda: self._client.run(self._run))
        return {
            "run": self._run,
            "group": self._group,
            "have": have,
            "want": want,
            "open_jobs": run.open_jobs,
            "running_jobs": run.running_jobs,
        }
