"""Batches in a subscriber's hands, and what keeps their leases while it works."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from service.client.errors import LeaseLost, LogChanged
from service.client.transport import Transport
from service.schemas import Batch, Delivery, Pair


class AsyncLeasedBatch:
    """Pairs that no other subscriber of the group gets, while this process lives.

    The lease is renewed in the background until the batch is acknowledged or handed back.
    """

    def __init__(self, batch: Batch, renewer: "LeaseRenewer") -> None:
        self._renewer = renewer
        self.batch = batch
        self.lost = False
        """The lease ended behind our back (no contact for too long): its pairs come again."""

    @property
    def pairs(self) -> list[Pair]:
        return self.batch.pairs

    @property
    def deliveries(self) -> list[Delivery]:
        """How each pair is delivered: its cursor, its staleness, how often."""
        return self.batch.deliveries

    async def ack(self) -> None:
        """What the pairs taught is safe. Raises: LeaseLost, LogChanged."""
        await self._renewer.transport.ack(self.batch.run, self.batch.lease)
        self._renewer.remove(self)

    async def nack(self) -> None:
        """Hands the pairs back, to be delivered again at once. Raises: as `ack`."""
        await self._renewer.transport.nack(self.batch.run, self.batch.lease)
        self._renewer.remove(self)


class LeasedBatch:
    """`AsyncLeasedBatch` for code that does not await."""

    def __init__(
        self,
        leased: AsyncLeasedBatch,
        call: Callable[[Callable[[], Coroutine[Any, Any, None]]], None],
    ) -> None:
        self._leased = leased
        self._call = call
        self.batch = leased.batch
        self.pairs = leased.pairs
        self.deliveries = leased.deliveries

    @property
    def lost(self) -> bool:
        """The lease ended behind our back (no contact for too long): its pairs come again."""
        return self._leased.lost

    def ack(self) -> None:
        """What the pairs taught is safe. Raises: LeaseLost, LogChanged."""
        self._call(self._leased.ack)

    def nack(self) -> None:
        """Hands the pairs back, to be delivered again at once. Raises: as `ack`."""
        self._call(self._leased.nack)


class LeaseRenewer:
    """Renews the leases of one client, each three times before it would run out."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._renewing: dict[AsyncLeasedBatch, asyncio.Task[None]] = {}

    def add(self, batch: Batch, lease_s: float) -> AsyncLeasedBatch:
        leased = AsyncLeasedBatch(batch, self)
        self._renewing[leased] = asyncio.create_task(self._renew(leased, lease_s), name="renew")
        return leased

    def remove(self, leased: AsyncLeasedBatch) -> None:
        if task := self._renewing.pop(leased, None):
            task.cancel()

    async def _renew(self, leased: AsyncLeasedBatch, lease_s: float) -> None:
        """Recovers from everything but the loss of the lease: the next try may pass."""
        while True:
            await asyncio.sleep(lease_s / 3)
            try:
                await self.transport.renew(leased.batch.run, leased.batch.lease, lease_s)
            except (LeaseLost, LogChanged):
                leased.lost = True
                del self._renewing[leased]
                return
            except Exception:
                continue

    async def close(self) -> None:
        tasks = list(self._renewing.values())
        self._renewing.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
