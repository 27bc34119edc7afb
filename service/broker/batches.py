"""Batches: pairs of a run, leased to the subscribers of a group.

A group is a position (`taken`: all up to it was leased or set aside) and some sets of positions:
`unacked` (leased at least once, not acknowledged), `again` (of those, to be delivered again),
`aside` (beyond `taken`, set aside as stale), and what each lease holds. Figures come from these.
"""

import asyncio
import secrets
import time
from contextlib import suppress
from typing import Any

from service.broker.connection import Connection, from_milliseconds, milliseconds
from service.broker.errors import UNAVAILABLE, LeaseLost, LogChanged
from service.broker.notifications import Notifications, wait_within
from service.broker.runs import Cursor
from service.broker.scripts import script
from service.schemas import TOLERANT, Batch, Delivery, LeaseRequest, Pair


@script("batches/lease.lua")
def _lease(
    run: str,
    group: str,
    size: int,
    min_size: int,
    lease_ms: int,
    token: str,
    call: str,
    asked_at: int | str,
) -> list[Any]: ...


@script("batches/withdraw.lua")
def _withdraw(run: str, group: str, token: str, call: str) -> None: ...


@script("batches/release.lua")
def _release(run: str, group: str, token: str) -> None: ...


# Each answers with the run's epoch, and with 0 if the lease has ended.


@script("batches/ack.lua")
def _ack(run: str, group: str, lease: str) -> tuple[str | None, int]: ...


@script("batches/nack.lua")
def _nack(run: str, group: str, lease: str) -> tuple[str | None, int]: ...


@script("batches/renew.lua")
def _renew(run: str, group: str, lease: str, lease_ms: int) -> tuple[str | None, int]: ...


@script("batches/active_leases.lua")
def _active_leases(run: str, group: str, *leases: str) -> tuple[list[str], int]: ...


@script("batches/delete_group.lua")
def _delete_group(run: str, group: str) -> int: ...


class Batches:
    def __init__(self, connection: Connection, notifications: Notifications) -> None:
        self._connection = connection
        self._notifications = notifications

    async def lease(self, run: str, request: LeaseRequest) -> Batch | None:
        """The oldest pairs that the group has not taken; what was handed back comes first. Asked
        for again with the same `token`, it is the same lease, and the same pairs.

        None: fewer than asked for came within `wait_s`. Cancelling this call hands back what it
        has just leased. Raises: KeyError (no such run), LeaseLost (its token is used up).
        """
        token, call = request.token or secrets.token_hex(8), secrets.token_hex(8)
        try:
            return await self._wait_for_lease(run, request, token, call)
        except asyncio.CancelledError:
            # On the same connection, so it comes after the lease that may be on its way.
            withdrawing = self._connection.run(_withdraw, run, request.group, token, call)
            with suppress(*UNAVAILABLE):
                await asyncio.shield(asyncio.ensure_future(withdrawing))
            raise

    async def _wait_for_lease(
        self, run: str, request: LeaseRequest, token: str, call: str
    ) -> Batch | None:
        batch, _, asked_at = await self._lease_now(run, request, token, call, "")
        if batch or request.wait_s <= 0:
            return batch
        end = time.monotonic() + request.wait_s
        async with self._notifications.subscribe(f"run:{run}") as changed:
            while True:
                batch, next_s, _ = await self._lease_now(run, request, token, call, asked_at)
                left = end - time.monotonic()
                if batch or left <= 0:
                    return batch
                await wait_within(changed, min(left, next_s))

    async def _lease_now(
        self, run: str, request: LeaseRequest, token: str, call: str, asked_at: int | str
    ) -> tuple[Batch | None, float, int | str]:
        """A batch; or None, and the seconds until a lease of the group runs out. And the time of
        the call's first look, whose own `asked_at` is empty: by it the latest of several calls with
        one token is told, whose the lease is."""
        outcome, *rest = await self._connection.run(
            _lease,
            run,
            request.group,
            request.size,
            request.min_size or request.size,
            self._lease_ms(request.lease_s),
            token,
            call,
            asked_at,
        )
        if outcome == "no run":
            raise KeyError(run)
        if outcome == "used up":
            raise LeaseLost(run, rest[0])
        if outcome == "wait":
            first_ms, asked_at = rest
            return None, float("inf") if first_ms == "" else float(first_ms) / 1000, asked_at
        lease, expiry, epoch, picked = rest
        batch = Batch(
            lease=lease,
            run=run,
            group=request.group,
            expires_at=from_milliseconds(expiry),
            pairs=[Pair.model_validate_json(values[2], **TOLERANT) for values in picked],
            deliveries=[_delivery(epoch, values) for values in picked],
        )
        return batch, 0.0, asked_at

    async def ack(self, run: str, lease: str) -> None:
        """What the pairs taught is safe. Raises: LeaseLost, LogChanged."""
        self._check(run, lease, await self._connection.run(_ack, run, _group(lease), lease))

    async def nack(self, run: str, lease: str) -> None:
        """Hands the pairs back, to be delivered again at once. Raises: LeaseLost, LogChanged."""
        self._check(run, lease, await self._connection.run(_nack, run, _group(lease), lease))

    async def release(self, run: str, group: str, token: str) -> None:
        """Hands back the lease with this token, if it was given, and uses the token up: a call with
        it that is under way, or comes late, raises LeaseLost. For callers who do not wait for their
        answer. Without such a run, nothing happens."""
        await self._connection.run(_release, run, group, token)

    async def renew(self, run: str, lease: str, lease_s: float | None = None) -> float:
        """Extends a lease. Returns when it ends now, in ms since 1970. Raises: as `ack`."""
        lease_ms = self._lease_ms(lease_s)
        reply = await self._connection.run(_renew, run, _group(lease), lease, lease_ms)
        return self._check(run, lease, reply)

    async def delete_group(self, run: str, group: str) -> bool:
        """Deletes a group, which then no longer keeps the log from being trimmed. False: there is
        none. A subscriber that comes back begins anew, with the oldest pair that is kept."""
        return bool(await self._connection.run(_delete_group, run, group))

    async def wait_for_room(
        self, run: str, group: str, leases: list[str], room: int, timeout_s: float
    ) -> list[str]:
        """Those of these leases that still stand: once there are fewer than `room`, or after a
        while."""
        end = time.monotonic() + timeout_s
        async with self._notifications.subscribe(f"run:{run}") as changed:
            while True:
                active, first_ms = await self._connection.run(_active_leases, run, group, *leases)
                left = end - time.monotonic()
                if len(active) < room or left <= 0:
                    return active
                await wait_within(changed, min(left, first_ms / 1000))

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
