"""Which version a worker serves: the newest, and what is left when that is withdrawn."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Literal

import structlog

from service.broker import Broker, wait_within
from service.schemas import WeightVersion
from service.weight_store import BadWeights
from worker import metrics
from worker.engine import EngineDied
from worker.reaching import reach
from worker.weights.versions import WeightVersions

log = structlog.get_logger()

POLL_S = 5.0
"""Seconds after which is looked again, even if nothing was heard."""

ENGINE_DOWN_S = 1.0
"""Seconds between two looks whether an engine that is down is back."""

REMEMBERED = 100
"""Versions that are looked through for one to go back to, the newest of those announced."""


class Adoption:
    """A worker's. Versions that came and went while it was busy are skipped."""

    def __init__(
        self,
        broker: Broker,
        versions: WeightVersions,
        worker_id: str,
        *,
        engine_ready: Callable[[], bool],
        heartbeat: Callable[[], Awaitable[None]],
    ):
        """`heartbeat`: says which version is served now."""
        self._broker = broker
        self._versions = versions
        self._worker_id = worker_id
        self._engine_ready = engine_ready
        self._heartbeat = heartbeat
        self._refused: set[int] = set()

    async def begin(self) -> None:
        """Before the first job: a worker that comes late must not begin with old weights."""
        wanted = await reach(self._wanted)
        if wanted is not None:
            await self._serve(wanted, time.monotonic())

    async def run(self) -> None:
        async with AsyncExitStack() as listening:
            changed = await reach(
                lambda: listening.enter_async_context(self._broker.weights.changed())
            )
            while True:
                if await reach(self._wanted) is None:
                    await wait_within(changed, POLL_S)
                    continue
                heard_at = time.monotonic()
                if not self._engine_ready():
                    await asyncio.sleep(ENGINE_DOWN_S)
                    continue
                await self._versions.wait_for_room()
                wanted = await reach(self._wanted)  # there may be a newer one by now
                if wanted is not None:
                    await self._serve(wanted, heard_at)

    async def _wanted(self) -> WeightVersion | Literal[0] | None:
        """What to serve in place of the current version, which 0 stands for the model itself; None:
        nothing."""
        weights, current = self._broker.weights, self._versions.current
        newest = await weights.newest()
        if newest and newest.version > current and newest.version not in self._refused:
            return newest
        if not current or not await weights.is_withdrawn(current):
            return None
        for version in await weights.newest_first(REMEMBERED):
            if version.version not in self._refused:
                return version
        return None if 0 in self._refused else 0

    async def _serve(self, wanted: WeightVersion | Literal[0], heard_at: float) -> None:
        """Adopts it or refuses it, and says so. Leaves it for later if the engine dies of it."""
        number = wanted.version if wanted else 0
        try:
            await (self._versions.adopt(wanted) if wanted else self._versions.adopt_base())
        except BadWeights as error:
            log.warning("refused", version=number, reason=str(error))
            metrics.VERSIONS_REFUSED.inc()
            self._refused.add(number)
            await reach(partial(self._broker.weights.refuse, self._worker_id, number, str(error)))
        except EngineDied:
            return
        else:
            metrics.ADOPT_SECONDS.observe(time.monotonic() - heard_at)
            metrics.WEIGHT_VERSION.set(number)
        await reach(self._heartbeat)
