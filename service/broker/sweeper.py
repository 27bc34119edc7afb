"""What time brings about: due retries, missed deadlines, expired leases, the end of retention."""

import time

from service.broker.connection import Connection, milliseconds
from service.broker.scripts import script


@script("sweeper/sweep.lua")
def _sweep(interval_ms: int) -> int: ...


class Sweeper:
    """Every process with a broker sweeps now and then: one at a time, wherever it is."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._swept_at = float("-inf")

    @property
    def interval_s(self) -> float:
        return min(1.0, self._connection.settings.lease_s / 4)

    async def sweep(self) -> None:
        """Expired leases, missed deadlines, due retries, retention. Cheap to call often."""
        now = time.monotonic()
        if now - self._swept_at < self.interval_s:
            return
        self._swept_at = now
        while await self._connection.run(_sweep, milliseconds(self.interval_s * 0.9)):
            """There was more than goes into one step."""
