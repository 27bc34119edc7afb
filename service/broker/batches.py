"""Batches: pairs of a run, leased to the subscribers of a group.

A group is a position (`taken`: all up to it was leased or set aside) and some sets of positions:
`unacked` (leased at least once, not acknowledged), `again` (of those, to be delivered again),
`aside` (beyond `taken`, set aside as stale), and what each lease holds. Figures come from these.
"""

import secrets
import time
from typing import Any

from service.broker.connection import Connection, from_milliseconds, milliseconds
from service.broker.errors import LeaseLost, LogChanged
from service.broker.notifications import Notifications, wait_within
from service.broker.runs import Cursor
from service.broker.scripts import script
from service.schemas import TOLERANT, Batch, Delivery, LeaseRequest, Pair


@script("batches/lease.lua")
def _lease(
    run: str, group: str, size: int, min_size: int, lease_ms: int, token: str
) -> list[Any]: ...


# Each answers with the run's epoch, and with 0 if the lease has ended.


@script("batches/ack.lua")
def _ack(run: str, group: str, lease: str) -> tuple[str | None, int]: ...


@script("batches/nack.lua")
def _nack(run: str, group: str, lease: str) -> tuple[str | None, int]: ...


@script("batches/renew.lua")
def _renew(run: str, group: str, lease: str, lease_ms: int) -> tuple[str | None, int]: ...


@script("batches/active_leases.lua")
def _active_leases(run: str, group: str, *leases: str) -> list[str]: ...


@script("batches/delete_group.lua")
def _delete_group(run: str, group: str) -> int: ...


class Batches:
    def __init__(self, connection: Connection, notifications: Notifications) -> None:
        self._connection = connection
        self._notifications = notifications

    async def lease(self, run: str, request: LeaseRequest) -> Batch | None:
        """The oldest pairs that the group has not taken; what was handed back comes first.

        None: fewer than asked for came within `wait_s`. Raises: KeyError (no such run).
        """
        batch, next_s = await self._lease_now(run, request)
        if batch or request.wait_s <= 0:
            return batch
        end = time.monotonic() + request.wait_s
        async with self._notifications.subscribe(f"run:{run}") as changed:
            while True:
                batch, next_s = await self._lease_now(run, request)
                left = end - time.monotonic()
                if batch or left <= 0:
                    return batch
                await wait_within(changed, min(left, next_s))

    async def _lease_now(self, run: str, request: LeaseRequest) -> tuple[Batch | None, float]:
        """A batch; or None, and the seconds until a lease of the group runs out."""
        outcome, *rest = await self._connection.run(
            _lease,
            run,
            request.group,
            request.size,
            request.min_size or request.size,
            self._lease_ms(request.lease_s),
            secrets.token_hex(8),
        )
        if outcome == "no run":
            raise KeyError(run)
        if outcome == "wait":
            return None, float("inf") if rest[0] == "" else float(rest[0]) / 1000
        lease, expiry, epoch, picked = rest
        batch = Batch(
            lease=lease,
            run=run,
            group=request.group,
            expires_at=from_milliseconds(expiry),
            pairs=[Pair.model_validate_json(values[2], **TOLERANT) for values in picked],
            deliveries=[_delivery(epoch, values) for values in picked],
        )
        return batch, 0.0

    async def ack(self, run: str, lease: str) -> None:
        """What the pairs taught is safe. Raises: LeaseLost, LogChanged."""
        self._check(run, lease, await self._connection.run(_ack, run, _group(lease), lease))

    async def nack(self, run: str, lease: str) -> None:
        """Hands the pairs back, to be delivered again at once. Raises: LeaseLost, LogChanged."""
        self._check(run, lease, await self._connection.run(_nack, run, _group(lease), lease))

    async def renew(self, run: str, lease: str, lease_s: float | None = None) -> float:
        """Extends a lease. Returns when it ends now, in ms since 1970. Raises: as `ack`."""
        lease_ms = self._lease_ms(lease_s)
        reply = await self._connection.run(_renew, run, _group(lease), lease, lease_ms)
        return self._check(run, lease, reply)

    async def delete_group(self, run: str, group: str) -> bool:
        """Deletes a group, which then no longer keeps the log from being trimmed. False: there is
        none. A subscriber that comes back begins anew, with the oldest pair that is kept."""
        return bool(await self._connection.run(_delete_group, run, group))

    async def active_leases(self, run: str, group: str, leases: list[str]) -> list[str]:
        """Those of these leases that still stand."""
        return await self._connection.run(_active_leases, run, group, *leases)

    async def wait_any_ended(
        self, run: str, group: str, leases: list[str], timeout_s: float
    ) -> None:
        """Returns when one of these leases has ended, or after a while."""
        end = time.monotonic() + timeout_s
        async with self._notifications.subscribe(f"run:{run}") as changed:
            while len(await self.active_leases(run, group, leases)) == len(leases):
                if not await wait_within(changed, end - time.monotonic()):
                    return

    def _check(self, run: str, lease: str, reply: tuple[str | None, int]) -> int:
        """Raises unless the lease was of this very run, and had not ended."""
        epoch, done = reply
        if epoch != lease.partition("~")[0]:
            why = "there is no such run (any more)" if epoch is None else "the run was made anew"
            raise LogChanged(run, lease, why)
        if not done:
            raise LeaseLost(run, lease)
        return done

    def _lease_ms(self, lease_s: float | None) -> int:
        return milliseconds(self._connection.settings.batch_lease_s if lease_s is None else lease_s)


def _group(lease: str) -> str:
    """A lease is `<epoch>~<group>~<token>`."""
    return lease.partition("~")[2].rpartition("~")[0]


def _delivery(epoch: str, values: list[Any]) -> Delivery:
    _, place, _, lag, stale, count = values
    return Delivery(
        cursor=str(Cursor(epoch, place)),
        staleness=None if lag == "" else int(lag),
        stale=bool(stale),
        count=count,
    )
