"""The engine's life: one that died is replaced, for as long as that helps.

An engine that does not come up is tried again, with growing pauses, for ever: memory may become
free, a disk come back. One that comes up and dies of its work, again and again, is another matter:
each time it takes jobs with it, so after several in a row the worker stops and says why.
"""

import asyncio
from collections.abc import Callable

import structlog

from worker import metrics
from worker.engine import Engine, EngineDied
from worker.engine.trial import try_engine
from worker.weights.versions import WeightVersions

log = structlog.get_logger()

LOOK_S = 0.5
"""Seconds between two looks whether the engine lives."""

FIRST_PAUSE_S = 1.0
"""Before a start that failed is tried again. After each further one in a row, twice as long."""

MAX_PAUSE_S = 60.0

MAX_DEATHS = 5
"""Engines that may die in a row, without a job done in between, before the worker stops."""

SUSPICIOUS_DEATHS = 2
"""Engines that died so, from which on the next death is not held against its jobs."""


class EngineKeepsDying(RuntimeError):
    """Engines start and die of their work, one after the other. Says how the last one died."""


class EngineKeeper:
    def __init__(
        self, engine: Engine, versions: WeightVersions, stall_s: float, on_ready: Callable[[], None]
    ):
        """
        Args:
            stall_s: within which an engine must answer its first request.
            on_ready: called when another engine is ready to work.
        """
        self._engine = engine
        self._versions = versions
        self._stall_s = stall_s
        self._on_ready = on_ready
        self._deaths = 0
        """In a row, without a job done in between."""
        self._replacing = False

    @property
    def ready(self) -> bool:
        """Whether the engine can be given work."""
        return self._engine.alive and not self._replacing

    @property
    def blames_engine(self) -> bool:
        """Whether a death is taken for the engine's own fault, and not that of the jobs it had."""
        return self._deaths >= SUSPICIOUS_DEATHS

    def job_done(self) -> None:
        """The engine does its work."""
        self._deaths = 0

    async def run(self) -> None:
        """Brings dead engines back. Raises: EngineKeepsDying."""
        while True:
            await asyncio.sleep(LOOK_S)
            if not self._engine.alive:
                await self._replace()

    async def _replace(self) -> None:
        self._replacing = True
        self._count_death(self._engine.how_it_died())
        pause_s = FIRST_PAUSE_S
        while True:
            metrics.ENGINE_RESTARTS.inc()
            try:
                await self._engine.restart()
                await try_engine(self._engine, self._stall_s)
                await self._versions.reload()
                break
            except EngineDied as error:
                self._count_death(f"{error}; {self._engine.how_it_died()}")
            except Exception as error:  # vLLM raises what it likes
                reason = f"{type(error).__name__}: {error}"
                log.error("the engine does not start; trying again", reason=reason, pause_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(MAX_PAUSE_S, 2 * pause_s)
        self._replacing = False
        self._on_ready()

    def _count_death(self, how: str) -> None:
        self._deaths += 1
        log.error("engine is dead or stuck; starting another", how=how, deaths=self._deaths)
        if self._deaths >= MAX_DEATHS:
            raise EngineKeepsDying(
                f"{self._deaths} engines in a row died without doing a job; the last one: {how}. "
                "The log has what vLLM said before. Jobs that were under way are back in line."
            )


async def start_engine(engine: Engine, stall_s: float) -> None:
    """Starts an engine, and tries it before any job does.

    Raises:
        EngineKeepsDying: it starts, and dies of the first thing that it is asked.
        As `Engine.start`.
    """
    await engine.start()
    for deaths in range(1, MAX_DEATHS + 1):
        try:
            await try_engine(engine, stall_s)
            return
        except EngineDied as error:
            how = f"{error}; {engine.how_it_died()}"
            log.error("engine died of its first request", how=how, deaths=deaths)
            if deaths == MAX_DEATHS:
                raise EngineKeepsDying(
                    f"{deaths} engines in a row died of their first request; the last one: {how}. "
                    "The log has what vLLM said before. No job was taken."
                ) from error
            await engine.restart()
