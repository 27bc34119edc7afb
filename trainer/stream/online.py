"""Fresh pairs of a run, as they are made."""

from functools import lru_cache

import structlog

from service.checkpoints.input_processor import InputProcessor
from service.client import Client, ImageGone, RunNotFound
from service.rendering import BadConversation
from service.schemas import Pair
from trainer.stream.inputs import check_digest
from trainer.stream.ledger import Ledger
from trainer.stream.rows import Row
from trainer.waiting import PAUSE_S, Waiter

log = structlog.get_logger()

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
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._waiter = waiter
        self._inputs = inputs
        self._run = run
        self._group = group
        self._lease_s = lease_s
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
        """None: an image is no longer stored, or a text cannot be rendered for this model. The pair
        is done with, as if it had been used."""
        check_digest(self._inputs.digest, pair.input_digest, f"Pair {pair.pair_id} was made")
        try:
            images = [self._waiter.retry(lambda r=ref: self._image(r)) for ref in pair.images]
            row = Row(pair, images, staleness)
            self._inputs.renderer.pair_answers(row.pair)
        except (ImageGone, BadConversation) as error:
            reason = error.problem.detail if isinstance(error, ImageGone) else str(error)
            log.warning("pair left out", pair=pair.pair_id, reason=reason)
            self._ledger.mark_used([pair.pair_id])
            return None
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
