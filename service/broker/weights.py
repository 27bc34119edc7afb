"""Versions of the policy: those announced, and what workers made of them.

Only the newest counts; what a slow worker has not adopted by then, it skips. Older ones are
remembered for jobs that name one, to make a response again.
"""

import time
from datetime import UTC, datetime

from service.broker.connection import Connection
from service.broker.errors import VersionNotNewer
from service.broker.notifications import Notifications, wait_within
from service.broker.scripts import script
from service.broker.workers import Workers
from service.schemas import TOLERANT, Refusal, WeightVersion
from service.schemas import Weights as State

REMEMBERED = 100
"""Versions older than this many before the newest are forgotten, and what was refused of them."""


@script("weights/announce.lua")
def _announce(version: int, announced: str, remembered: int) -> int: ...


@script("weights/refuse.lua")
def _refuse(refusal_id: str, refusal: str) -> None: ...


class Weights:
    def __init__(
        self, connection: Connection, notifications: Notifications, workers: Workers
    ) -> None:
        self._connection = connection
        self._workers = workers
        self._notifications = notifications

    async def announce(self, announced: WeightVersion) -> None:
        """Makes a version the newest. Raises: VersionNotNewer. Saying it twice is fine."""
        newest = await self._connection.run(
            _announce, announced.version, announced.model_dump_json(), REMEMBERED
        )
        if newest:
            raise VersionNotNewer(announced.version, newest)

    async def newest(self) -> WeightVersion | None:
        text = await self._connection.command("HGET", self._connection.key("weights"), "announced")
        return WeightVersion.model_validate_json(text, **TOLERANT) if text else None

    async def get(self, version: int) -> WeightVersion | None:
        """A version as it was announced; None: never, or long ago. Its files may be gone."""
        text = await self._connection.command(
            "HGET", self._connection.key("weights", "known"), str(version)
        )
        return WeightVersion.model_validate_json(text, **TOLERANT) if text else None

    async def wait_newer(self, version: int, timeout_s: float) -> WeightVersion | None:
        """The newest version as soon as it is above `version`; None: not within the time."""
        end = time.monotonic() + timeout_s
        async with self._notifications.subscribe("weights") as changed:
            while True:
                newest = await self.newest()
                if newest is not None and newest.version > version:
                    return newest
                if not await wait_within(changed, end - time.monotonic()):
                    return None

    async def refuse(self, worker_id: str, version: int, reason: str) -> None:
        """A worker says that it will not serve a version, and why."""
        refusal = Refusal(
            worker_id=worker_id, version=version, reason=reason, refused_at=datetime.now(UTC)
        )
        await self._connection.run(_refuse, f"{version} {worker_id}", refusal.model_dump_json())

    async def state(self) -> State:
        refused = await self._connection.command(
            "HVALS", self._connection.key("weights", "refused")
        )
        refusals = [Refusal.model_validate_json(text, **TOLERANT) for text in refused]
        return State(
            newest=await self.newest(),
            workers=await self._workers.all(),
            refused=sorted(refusals, key=lambda r: (r.version, r.worker_id)),
        )

    async def wait_adopted(self, version: int, timeout_s: float) -> State | None:
        """The state once every live worker serves this version or a newer one, or has refused it.

        None: not within the time. With no worker alive there is nobody to wait for.
        """
        end = time.monotonic() + timeout_s
        async with self._notifications.subscribe("weights") as changed:
            while True:
                state = await self.state()
                refused = {r.worker_id for r in state.refused if r.version == version}
                if all(w.weight_version >= version or w.id in refused for w in state.workers):
                    return state
                left = min(end - time.monotonic(), self._connection.settings.worker_ttl_s)
                if left <= 0:
                    return None
                await wait_within(changed, left)  # a worker that dies does not notify: look again
