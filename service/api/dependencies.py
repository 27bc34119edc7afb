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

    async def wait(self, job_id: str, seconds: float) -> Job | None:
        """As `Jobs.wait`, but no longer than the settings allow or the server lives."""
        waiting = self.broker.jobs.wait(job_id, self.clamp_wait(seconds))
        return await self.until_stopping(waiting) or await self.broker.jobs.get(job_id)

    def clamp_wait(self, seconds: float) -> float:
        return min(seconds, self.settings.max_wait_s)

    async def until_stopping(self, waiting: Coroutine[Any, Any, T]) -> T | None:
        """What it returns; None if the server stops before."""
        task = asyncio.ensure_future(waiting)
        stopping = asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return await task if task.done() else None
        finally:
            task.cancel()
            stopping.cancel()


async def _app_state(request: Request) -> AppState:  # `def` would be run in a thread
    return request.app.state.app_state


AppStateDep = Annotated[AppState, Depends(_app_state)]

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
