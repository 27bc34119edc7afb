"""Which pairs a trainer holds, has used, has in a checkpoint, and has acknowledged.

The promise: in the line of a trainer's checkpoints no pair is lost and none counts twice. It rests
on two rules. A lease is acknowledged only when all its pairs are in a checkpoint, and renewed until
then; so what no checkpoint contains is delivered again. A checkpoint lists the pairs in it that are
not known to be acknowledged; so what is delivered again, and is in it, is known and not used again.
It also lists the leases that it makes ready to be acknowledged: who resumes from it does so first.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import structlog

from service.client import LeaseLost, LogChanged, TemporaryError
from service.schemas import Batch, Pair

log = structlog.get_logger()


class Lease(Protocol):
    """What is used of `service.client.LeasedBatch`, which renews itself until then."""

    batch: Batch

    def ack(self) -> None: ...
    def nack(self) -> None: ...


class Ledger:
    """Of one process, the only one that leases. Its methods may be called from several threads."""

    def __init__(self, saved: Iterable[str] = ()) -> None:
        """`saved`: what the checkpoint that is resumed lists (`unacknowledged` of its record)."""
        self._lock = threading.Lock()
        self._leases: dict[str, Lease] = {}
        self._held: set[str] = set()  # delivered, not used yet
        self._used: set[str] = set()  # used, in no checkpoint yet
        self._saved = set(saved)  # in a checkpoint, not acknowledged
        self.repeated = 0
        """Pairs delivered again that were known, and so not used again."""

    def resume(self, leases: Mapping[str, list[str]], ack: Callable[[str], None]) -> None:
        """Acknowledges the leases that the resumed checkpoint lists (`leases` of its record): its
        process may have died before it could."""
        for lease, pair_ids in leases.items():
            try:
                ack(lease)
            except (TemporaryError, LeaseLost, LogChanged) as error:
                # Its pairs come again, and are known.
                log.info("not acknowledged", lease=lease, reason=str(error))
                if isinstance(error, TemporaryError):
                    return
            else:
                with self._lock:
                    self._saved -= set(pair_ids)

    def add_lease(self, lease: Lease) -> list[Pair]:
        """Takes a lease on. Returns those of its pairs that are new to this line."""
        with self._lock:
            self._leases[lease.batch.lease] = lease
            known = self._held | self._used | self._saved
            new = [pair for pair in lease.batch.pairs if pair.pair_id not in known]
            self._held |= {pair.pair_id for pair in new}
            self.repeated += len(lease.batch.pairs) - len(new)
        if not new:
            self.acknowledge()
        return new

    def mark_used(self, pair_ids: Iterable[str]) -> None:
        """An optimizer step has used these.

        What no lease holds, such as rows of a data set, is nothing to be acknowledged.
        """
        with self._lock:
            ids = self._held.intersection(pair_ids)
            self._held -= ids
            self._used |= ids

    def mark_unusable(self, pair_ids: Iterable[str]) -> None:
        """No step will use these, so that no checkpoint need have them: a lease of nothing else is
        acknowledged at once."""
        with self._lock:
            ids = self._held.intersection(pair_ids)
            self._held -= ids
            self._saved |= ids
        self.acknowledge()

    def unacknowledged(self) -> list[str]:
        """What a checkpoint of this moment has to list."""
        with self._lock:
            return sorted(self._saved | self._used)

    def complete(self, pair_ids: Iterable[str]) -> dict[str, list[str]]:
        """The leases whose pairs are all among these, and what they hold."""
        with self._lock:
            return self._complete(set(pair_ids))

    def mark_saved(self, pair_ids: Iterable[str]) -> None:
        """A checkpoint that contains and lists these is complete, on disk."""
        with self._lock:
            ids = set(pair_ids)
            self._used -= ids
            self._saved |= ids

    def acknowledge(self) -> int:
        """Acknowledges the leases whose pairs are all in a checkpoint. Returns how many pairs.

        If the service is away they stay, to be acknowledged another time.
        """
        with self._lock:
            # Taken out, so that no other thread acknowledges them as well.
            ready = [self._leases.pop(lease) for lease in self._complete(self._saved)]
        acknowledged = 0
        for number, lease in enumerate(ready):
            try:
                lease.ack()
            except (TemporaryError, LeaseLost, LogChanged) as error:
                log.warning("not acknowledged", lease=lease.batch.lease, reason=str(error))
                if isinstance(error, TemporaryError):
                    with self._lock:
                        self._leases |= {later.batch.lease: later for later in ready[number:]}
                    break
                # Gone: its pairs come again, and are known.
            else:
                with self._lock:
                    self._saved -= {pair.pair_id for pair in lease.batch.pairs}
                acknowledged += len(lease.batch.pairs)
        return acknowledged

    def close(self) -> None:
        """Acknowledges what can be, and hands the rest back: no checkpoint has it."""
        self.acknowledge()
        with self._lock:
            rest, self._leases = list(self._leases.values()), {}
        for lease in rest:
            try:
                lease.nack()
            except (TemporaryError, LeaseLost, LogChanged) as error:
                log.warning("not handed back", lease=lease.batch.lease, reason=str(error))
                if isinstance(error, TemporaryError):
                    return  # the leases run out

    def _complete(self, pair_ids: set[str]) -> dict[str, list[str]]:
        held = {
            name: [p.pair_id for p in lease.batch.pairs] for name, lease in self._leases.items()
        }
        return {name: ids for name, ids in held.items() if pair_ids.issuperset(ids)}
