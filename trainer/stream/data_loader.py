"""The run's pairs as what TRL's trainer takes for its data loader.

TRL, transformers and accelerate are made for data sets that can be read again. A live stream
cannot, so none of their machinery stands between it and the optimizer step:

- TRL looks at one sample when it is built: it gets a placeholder, and the stream is not touched
  (trainer/methods/stream_trainer.py).
- accelerate reads one batch ahead, and makes every process read all pairs to throw most away; a
  resumed trainer skips the batches it had before. `PairDataLoader` is not given to accelerate, and
  has nothing to skip.
- A collator drops the columns it does not know. Here a step's pair ids stay beside its batches.

One process leases. It scatters each optimizer step's pairs to all processes, over a group of
its own, so that waiting for pairs is no collective call of the training that could time out.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from trainer.stream.rows import Row, RowSource
from trainer.waiting import Stopped

JOIN_S = 30.0
"""Longest wait for a call to the service that is under way when training ends."""

FOREVER = timedelta(days=365)

Collate = Callable[[list[Row]], Any]
"""Makes the batch of one forward and backward pass of its rows."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One process's part of an optimizer step."""

    pair_ids: list[str]
    """Of the whole step, over all processes."""
    metrics: dict[str, float]
    """Of the whole step, to be logged with its loss."""
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class Step:
    """What one process computes of an optimizer step."""

    pair_ids: list[str]
    """Of the whole step, over all processes."""
    metrics: dict[str, float]
    batches: list[Any] = field(repr=False)
    """Collated, one for each pass forward and backward; as `Collate` makes them."""


class PairDataLoader:
    """Optimizer steps, in order, one shard each to every process; read ahead in a thread.

    `source` is where the rows come from, in the process of rank 0; elsewhere it is None.
    """

    def __init__(
        self,
        source: RowSource | None,
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
        self._read_aheady: queue.Queue[Step | Exception | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self.current: Step | None = None
        """The step that is being computed, or was last."""
        self.waited_s = 0.0
        self.ended = False
        """There will be no further step: all were drawn, or the trainer was asked to stop."""

    def start(self, collate: Collate) -> None:
        self._thread = threading.Thread(
            target=self._read_ahead, args=(collate,), name="data loader", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> Iterator[Any]:
        """A step's batches, then the next step's."""
        while (step := self._next_step()) is not None:
            self.current = step
            yield from step.batches

    def _next_step(self) -> Step | None:
        if self.ended:
            return None
        self._wanted.release()
        asked_at = time.monotonic()
        step = self._read_aheady.get()
        self.waited_s += time.monotonic() - asked_at
        if isinstance(step, Exception):
            raise step
        self.ended = step is None
        return step

    def metrics(self) -> dict[str, float]:
        """Of the current step, and how long was waited for pairs since this was last asked."""
        waited, self.waited_s = self.waited_s, 0.0
        return {"pairs/waited_s": waited, **(self.current.metrics if self.current else {})}

    def join(self) -> None:
        """Waits until nothing more is leased. `stop` must be set, if steps are left."""
        if self._thread:
            self._wanted.release()
            self._thread.join(JOIN_S)

    # --- the thread ---

    def _read_ahead(self, collate: Collate) -> None:
        try:
            for _ in range(self._steps):
                self._wanted.acquire()
                shard = self._next_shard()
                if shard is None:
                    break
                self._read_aheady.put(self._step(shard, collate))
            self._read_aheady.put(None)
        except Exception as error:  # raised in the thread that trains
            self._read_aheady.put(error)

    def _next_shard(self) -> Shard | None:
        """This process's shard of the next step; None, in all processes: no more steps."""
        shards: list[Shard | None] = [None] * self._processes
        if self._source is not None:
            try:
                rows = self._source.draw(self._batch_size)
            except Stopped:
                pass
            else:
                # Of several rows of each pair, the first of all come first. A data set's pair may
                # be in a step twice, and counts twice: a resumed trainer goes on by this number.
                ids = [row.pair.pair_id for row in rows[: self._batch_size]]
                metrics = _metrics(rows)
                shards = [
                    Shard(ids, metrics, rows[rank :: self._processes])
                    for rank in range(self._processes)
                ]
        if self._group is None:
            return shards[0]
        mine: list[Shard | None] = [None]
        dist.scatter_object_list(mine, shards if self._source else None, src=0, group=self._group)
        return mine[0]

    def _step(self, shard: Shard, collate: Collate) -> Step:
        size = self.device_batch_size
        parts = [shard.rows[i : i + size] for i in range(0, len(shard.rows), size)]
        batches = [collate(part) for part in parts]
        return Step(shard.pair_ids, shard.metrics, batches)


def _metrics(rows: list[Row]) -> dict[str, float]:
    lags = [row.staleness for row in rows if row.staleness is not None]
    metrics = {"pairs/offline": sum(row.pair.method == "offline" for row in rows) / len(rows)}
    if lags:
        metrics |= {"pairs/staleness": sum(lags) / len(lags), "pairs/staleness_max": max(lags)}
    return metrics
