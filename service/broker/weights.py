"""Versions of the policy: those announced, and what workers made of them.

Only the newest counts; what a slow worker has not adopted by then, it skips. Older ones are
remembered for jobs that name one, to make a response again, and to fall back on if the newest is
withdrawn.
"""

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any

from service.broker.connection import Connection
from service.broker.errors import (
    UnknownScheme,
    VersionNotNewer,
    VersionTooFar,
    VersionWithdrawn,
)
from service.broker.notifications import Notifications, wait_within
from service.broker.scripts import script
from service.broker.workers import Workers
from service.schemas import TOLERANT, Refusal, WeightVersion
from service.schemas import Weights as State
from service.weight_store import unknown_scheme

REMEMBERED = 100
"""Versions that are remembered, the newest; refusals and withdrawals of versions this far below the
newest are forgotten."""

MAX_STEP = 1_000_000
"""How far a version may lie above the one before. A version is a count of publications, which no
training takes so far; a number from elsewhere (a time, an id) would be what none of the true ones
ever reaches. So many steps of this size as would block all later ones, nobody takes by mistake."""

MAX_REASON = 1000
"""Characters that are kept of why a version was refused."""


@script("weights/announce.lua")
def _announce(version: int, announced: str, remembered: int, max_step: int) -> list[Any]: ...


@script("weights/withdraw.lua")
def _withdraw(version: int) -> int: ...


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
        """Makes a version the newest. Saying it twice is fine.

        Raises: UnknownScheme, VersionNotNewer, VersionTooFar, VersionWithdrawn.
        """
        if (scheme := unknown_scheme(announced.location)) is not None:
            raise UnknownScheme(scheme, announced.location)
        version = announced.version
        outcome, *rest = await self._connection.run(
            _announce, version, announced.model_dump_json(), REMEMBERED, MAX_STEP
        )
        match outcome:
            case "not newer":
                raise VersionNotNewer(version, *rest)
            case "withdrawn":
                raise VersionWithdrawn(version, rest[1])
            case "too far":
                raise VersionTooFar(version, rest[0], MAX_STEP)
            case _:
                pass

    async def withdraw(self, version: int) -> bool:
        """No worker adopts the version any more, and those that serve it go back to the newest that
        is left. Its number is not used again. False: it is not known. Saying it twice is fine.
        """
        return bool(await self._connection.run(_withdraw, version))

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
        async with self.changed() as changed:
            while True:
                newest = await self.newest()
                if newest is not None and newest.version > version:
                    return newest
                if not await wait_within(changed, end - time.monotonic()):
                    return None

    async def newest_first(self, count: int) -> list[WeightVersion]:
        """The versions that were announced and not withdrawn, the newest of them."""
        known = await self._connection.command("HVALS", self._connection.key("weights", "known"))
        versions = [WeightVersion.model_validate_json(text, **TOLERANT) for text in known]
        return sorted(versions, key=lambda v: v.version, reverse=True)[:count]

    async def is_withdrawn(self, version: int) -> bool:
        key = self._connection.key("weights", "withdrawn")
        return bool(await self._connection.command("SISMEMBER", key, str(version)))

    def changed(self) -> AbstractAsyncContextManager[asyncio.Event]:
        """An event that is set when a version is announced, withdrawn, adopted or refused."""
        return self._notifications.subscribe("weights")

    async def refuse(self, worker_id: str, version: int, reason: str) -> None:
        """A worker says that it will not serve a version, and why."""
        refusal = Refusal(
            worker_id=worker_id,
            version=version,
            reason=reason if len(reason) <= MAX_REASON else f"{reason[: MAX_REASON - 1]}…",
            refused_at=datetime.now(UTC),
        )
        await self._connection.run(_refuse, f"{version} {worker_id}", refusal.model_dump_json())

    async def state(self) -> State:
        command, key = self._connection.command, self._connection.key
        refused = await command("HVALS", key("weights", "refused"))
        withdrawn = await command("SMEMBERS", key("weights", "withdrawn"))
        refusals = [Refusal.model_validate_json(text, **TOLERANT) for text in refused]
        return State(
            newest=await self.newest(),
            workers=await self._workers.all(),
            refused=sorted(refusals, key=lambda r: (r.version, r.worker_id)),
            withdrawn=sorted(map(int, withdrawn)),
        )

    async def wait_adopted(self, version: int, timeout_s: float) -> State | None:
        """The state once every live worker serves this version or a newer one, or has refused it.

        None: not within the time. With no worker alive there is nobody to wait for.
        """
        end = time.monotonic() + timeout_s
        async with self.changed() as changed:
            while True:
                state = await self.state()
                refused = {r.worker_id for r in state.refused if r.version == version}
                if all(w.weight_version >= version or w.id in refused for w in state.workers):
                    return state
                left = min(end - time.monotonic(), self._connection.settings.worker_ttl_s)
                if left <= 0:
                    return None
                await wait_within(changed, left)  # a worker that dies does not notify: look again
