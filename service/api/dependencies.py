"""What routes share: the broker, the intake, the settings, and how to wait for a job."""

import asyncio
import re
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Header, Path, Query, Request

from service.broker import Broker
from service.intake import Intake
from service.schemas import Job, RunName
from service.settings import Settings

T = TypeVar("T")


@dataclass(slots=True)
class AppState:
    """One for each app, made when it starts."""

    settings: Settings
    broker: Broker
    intake: Intake
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server is told to stop: long answers end, so that it can."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def stop(self) -> None:
        """Ends long answers. Safe in a signal handler and in any thread."""
        self.loop.call_soon_threadsafe(self.stopping.set)

    def clamp_wait(self, seconds: float) -> float:
        return min(seconds, self.settings.max_wait_s)


async def _app_state(request: Request) -> AppState:  # `def` would be run in a thread
    return request.app.state.app_state


AppStateDep = Annotated[AppState, Depends(_app_state)]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent the request, and may leave before it is answered."""

    app_state: AppState
    request: Request

    async def wait_for(self, waiting: Coroutine[Any, Any, T]) -> T | None:
        """What it returns; None if the caller leaves or the server stops before, and then it is
        cancelled. Its body must have been read."""
        task = asyncio.ensure_future(waiting)
        ends = {
            asyncio.ensure_future(self._gone()),
            asyncio.ensure_future(self.app_state.stopping.wait()),
        }
        try:
            await asyncio.wait({task, *ends}, return_when=asyncio.FIRST_COMPLETED)
            return await task if task.done() else None
        finally:
            for one in (task, *ends):
                one.cancel()
            await asyncio.gather(task, *ends, return_exceptions=True)

    async def wait_for_job(self, job_id: str, seconds: float) -> Job | None:
        """As `Jobs.wait`, but no longer than the settings allow, the server lives and the caller
        is there."""
        jobs = self.app_state.broker.jobs
        if seconds > 0:
            waiting = jobs.wait(job_id, self.app_state.clamp_wait(seconds))
            if job := await self.wait_for(waiting):
                return job
        return await jobs.get(job_id)

    async def is_gone(self) -> bool:
        return await self.request.is_disconnected()

    async def _gone(self) -> None:
        while (await self.request.receive())["type"] != "http.disconnect":
            pass


async def _caller(request: Request, app_state: AppStateDep) -> Caller:
    return Caller(app_state, request)


CallerDep = Annotated[Caller, Depends(_caller)]

RunPath = Annotated[RunName, Path(description="The run's name.")]
LeasePath = Annotated[str, Path(description="The lease's name, from the batch.")]
JobPath = Annotated[str, Path(description="The job's id.")]

WaitS = Annotated[
    float | None,
    Query(ge=0, allow_inf_nan=False, description="Seconds to wait for the job to end."),
]
Prefer = Annotated[
    str | None, Header(description="`wait=N`: as `wait_s=N` (RFC 7240).", examples=["wait=30"])
]


def wait_seconds(wait_s: float | None, prefer: str | None) -> float:
    """What the caller asked for; the query wins over the header. 0: do not wait."""
    if wait_s is not None:
        return wait_s
    match = re.search(r"(?:^|[,;\s])wait\s*=\s*(\d{1,9})(?:$|[,;\s])", prefer or "")
    return float(match[1]) if match else 0.0
