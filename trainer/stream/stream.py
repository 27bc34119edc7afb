"""The run's pairs as what TRL's trainer takes for its data loader.

TRL, transformers and accelerate are made for data sets that can be read again. A live stream
cannot, so none of their machinery stands between it and the optimizer step:

- TRL looks at one sample when it is built: it gets `placeholder`, and the stream is not touched.
- accelerate reads one batch ahead, and makes every process read all pairs to throw most away; a
  resumed trainer skips the batches it had before. `Stream` is not given to accelerate, and has
  nothing to skip.
- TRL's collator drops the columns it does not know. Here a step's pair ids stay beside its batches.

One process leases. It deals each optimizer step's pairs out to all processes, over a group of
its own, so that waiting for pairs is no collective call of the training that could time out.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import Any, Protocol

import structlog
import torch.distributed as dist
from datasets import IterableDataset
from PIL import Image

from service import images
from service.client import Client, PrefstreamError
from service.schemas import Message, Pair
from trainer.stream.ledger import Ledger
from trainer.waiting import PAUSE_S, Patience, Stopped

log = structlog.get_logger()

IMAGES_CACHED = 128
"""Encoded images that are kept; questions about one image tend to come together."""

JOIN_S = 30.0
"""Longest wait for a call to the service that is under way when training ends."""

FOREVER = timedelta(days=365)

WEIGHT = "row_weight"
"""Key of a batch: the weight of its rows in the loss."""

Collate = Callable[[list[dict[str, Any]]], Any]


@dataclass(frozen=True, slots=True)
class Row:
    """A pair with its images' bytes."""

    pair: Pair
    images: list[bytes]
    staleness: int | None
    """Weight versions that it lagged behind when it was leased; None: not policy-made."""
    weight: float = 1.0
    """Of its loss, where the mean over an optimizer step's rows is 1."""

    def columns(self) -> dict[str, Any]:
        """TRL's conversational vision preference row; the images are PIL, RGB."""
        return {
            "prompt": _turns(self.pair.prompt),
            "chosen": _turns(self.pair.chosen),
            "rejected": _turns(self.pair.rejected),
            "images": [images.decode_rgb(content) for content in self.images],
        }


@dataclass(frozen=True, slots=True)
class Share:
    """One process's part of an optimizer step."""

    pair_ids: list[str]
    """Of the whole step, over all processes."""
    figures: dict[str, float]
    """Of the whole step, to be logged with its loss."""
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class Step:
    """What one process computes of an optimizer step."""

    pair_ids: list[str]
    """Of the whole step, over all processes."""
    figures: dict[str, float]
    batches: list[Any] = field(repr=False)
    """Collated, one for each pass forward and backward; each with its rows' common `WEIGHT`."""


class Draws(Protocol):
    """Where the steps' rows come from, in the process that leases."""

    def draw(self, count: int) -> list[Row]:
        """The rows of so many pairs: one each, or for all the same number. Raises: Stopped."""
        ...


class Pairs:
    """Fresh pairs of a run, leased for as long as the ledger holds them."""

    def __init__(
        self,
        client: Client,
        ledger: Ledger,
        patience: Patience,
        *,
        run: str,
        group: str,
        lease_s: float,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._patience = patience
        self._run = run
        self._group = group
        self._lease_s = lease_s
        self._image = lru_cache(maxsize=IMAGES_CACHED)(client.image)

    def draw(self, count: int) -> list[Row]:
        rows: list[Row] = []
        while len(rows) < count:
            self._patience.check()
            have = len(rows)
            new = self._patience.reach(lambda n=have: self._lease(count - n))
            rows += [row for pair in new or () if (row := self._with_images(*pair))]
            if new:
                self._patience.over()
            elif new is None:
                self._patience.wait("waiting for the run's first job", PAUSE_S, self._name)
            else:
                self._patience.wait("waiting for pairs", 0, lambda n=have: self._figures(n, count))
        return rows

    def _lease(self, count: int) -> list[tuple[Pair, int | None]] | None:
        """New pairs that came within a second, perhaps none, each with its staleness.

        None: there is no such run yet.
        """
        try:
            leased = self._client.lease(
                self._run, group=self._group, size=count, lease_s=self._lease_s, wait_s=PAUSE_S
            )
        except PrefstreamError as error:
            if error.problem.code != "run_not_found":
                raise
            return None
        if leased is None:
            return []
        staleness = {
            pair.pair_id: delivery.staleness
            for pair, delivery in zip(leased.pairs, leased.deliveries, strict=True)
        }
        return [(pair, staleness[pair.pair_id]) for pair in self._ledger.admit(leased)]

    def _with_images(self, pair: Pair, staleness: int | None) -> Row | None:
        """None: an image is no longer stored. The pair is done with, as if it had been used."""
        try:
            images = [self._patience.reach(lambda r=ref: self._image(r)) for ref in pair.images]
        except PrefstreamError as error:
            if error.problem.code != "image_gone":
                raise
            log.warning("pair left out", pair=pair.pair_id, reason=error.problem.detail)
            self._ledger.use([pair.pair_id])
            return None
        return Row(pair, images, staleness)

    def _name(self) -> dict[str, object]:
        return {"run": self._run}

    def _figures(self, have: int, want: int) -> dict[str, object]:
        """What a person who waits wants to know."""
        run = self._patience.reach(lambda: self._client.run(self._run))
        return {
            "run": self._run,
            "group": self._group,
            "have": have,
            "want": want,
            "open_jobs": run.open_jobs,
            "running_jobs": run.running_jobs,
        }


class Stream:
    """Optimizer steps, in order, one share each to every process; read ahead in a thread.

    `source` is what leases, in the process of rank 0; elsewhere it is None.
    """

    def __init__(
        self,
        source: Draws | None,
        *,
        steps: int,
        batch_size: int,
        device_batch_size: int,
        read_ahead: int,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        """`steps` to come; `batch_size` pairs each, over all processes."""
        self._source = source
        self._steps = steps
        self._batch_size = batch_size
        self.device_batch_size = device_batch_size
        self._rank = rank
        self._processes = processes
        self._group: Any = None
        if processes > 1:
            self._group = dist.new_group(backend="gloo", timeout=FOREVER)
        self._wanted = threading.Semaphore(read_ahead)
        self._ready: queue.Queue[Step | Exception | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self.current: Step | None = None
        """The step that is being computed, or was last."""
        self.waited_s = 0.0
        self.ended = False
        """There will be no further step: all were drawn, or the trainer was asked to stop."""

    def start(self, collate: Collate) -> None:
        self._thread = threading.Thread(
            target=self._read, args=(collate,), name="stream", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> Iterator[Any]:
        """A step's batches, then the next step's."""
        while (step := self._next()) is not None:
            self.current = step
            yield from step.batches

    def _next(self) -> Step | None:
        if self.ended:
            return None
        self._wanted.release()
        asked_at = time.monotonic()
        step = self._ready.get()
        self.waited_s += time.monotonic() - asked_at
        if isinstance(step, Exception):
            raise step
        self.ended = step is None
        return step

    def figures(self) -> dict[str, float]:
        """Of the current step, and how long was waited for pairs since this was last asked."""
        waited, self.waited_s = self.waited_s, 0.0
        return {"pairs/waited_s": waited, **(self.current.figures if self.current else {})}

    def join(self) -> None:
        """Waits until nothing more is leased. `stop` must be set, if steps are left."""
        if self._thread:
            self._wanted.release()
            self._thread.join(JOIN_S)

    # --- the thread ---

    def _read(self, collate: Collate) -> None:
        try:
            for _ in range(self._steps):
                self._wanted.acquire()
                share = self._deal()
                if share is None:
                    break
                self._ready.put(self._collated(share, collate))
            self._ready.put(None)
        except Exception as error:  # raised in the thread that trains
            self._ready.put(error)

    def _deal(self) -> Share | None:
        """This process's share of the next step; None, in all processes: no more steps."""
        shares: list[Share | None] = [None] * self._processes
        if self._source is not None:
            try:
                rows = self._source.draw(self._batch_size)
            except Stopped:
                pass
            else:
                ids = list(dict.fromkeys(row.pair.pair_id for row in rows))
                figures = _figures(rows)
                shares = [
                    Share(ids, figures, rows[rank :: self._processes])
                    for rank in range(self._processes)
                ]
        if self._group is None:
            return shares[0]
        mine: list[Share | None] = [None]
        dist.scatter_object_list(mine, shares if self._source else None, src=0, group=self._group)
        return mine[0]

    def _collated(self, share: Share, collate: Collate) -> Step:
        size = self.device_batch_size
        parts = [share.rows[i : i + size] for i in range(0, len(share.rows), size)]
        batches = [self._batch(part, collate) for part in parts]
        return Step(share.pair_ids, share.figures, batches)

    @staticmethod
    def _batch(rows: list[Row], collate: Collate) -> Any:
        [weight] = {row.weight for row in rows}  # rows come in blocks of one weight
        batch = collate([row.columns() for row in rows])
        batch[WEIGHT] = weight
        return batch


def placeholder() -> IterableDataset:
    """A data set of one row that is never trained on, to be looked at."""
    row = {
        "prompt": [{"role": "user", "content": [{"type": "image"}]}],
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "?"}]}],
        "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "!"}]}],
        "images": [Image.new("RGB", (8, 8))],
    }

    def rows() -> Iterator[dict[str, Any]]:
        yield row

    return IterableDataset.from_generator(rows)


def _figures(rows: list[Row]) -> dict[str, float]:
    lags = [row.staleness for row in rows if row.staleness is not None]
    figures = {"pairs/offline": sum(row.pair.method == "offline" for row in rows) / len(rows)}
    if lags:
        figures |= {"pairs/staleness": sum(lags) / len(lags), "pairs/staleness_max": max(lags)}
    return figures


def _turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [
        {"role": message.role, "content": [part.model_dump() for part in message.parts]}
        for message in messages
    ]
