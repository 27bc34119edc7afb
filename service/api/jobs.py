"""/jobs: state and result, cancellation, progress."""

import re
from collections.abc import AsyncGenerator
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Response

from service.api.dependencies import AppState, AppStateDep, CallerDep, JobPath, WaitS
from service.api.problems import RESPONSES
from service.api.sse import EventStream, ServerSentEvent
from service.broker import Event
from service.problems import Refusal, no_such_job, not_dead
from service.schemas import Job, JobsPage, JobsState, Purged

router = APIRouter(prefix="/jobs", tags=["jobs"], responses=RESPONSES)

END_EVENT_ID = "end"
"""The id of a job's last event."""


@router.get("", summary="List jobs", response_model=JobsPage)
async def list_jobs(
    app_state: AppStateDep,
    state: Annotated[JobsState, Query(description="`dead`: the dead letters.")] = "open",
    before: Annotated[str | None, Query(description="The `before` of an earlier page.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Jobs at most.")] = 100,
) -> Response:
    """Newest first, without results."""
    page = await app_state.broker.jobs.page(state, before=before, limit=limit)
    return Response(page.model_dump_json(), media_type="application/json")


@router.delete("", summary="Purge the dead letters")
async def purge_jobs(
    app_state: AppStateDep, state: Annotated[Literal["dead"], Query(description="Must be said.")]
) -> Purged:
    return Purged(purged=await app_state.broker.jobs.purge_dead_letters())


@router.post("/{job_id}/retry", summary="Retry a dead letter", response_model=Job)
async def retry_job(job_id: JobPath, app_state: AppStateDep) -> Response:
    """Back into the queue, with as many attempts as a new job."""
    job = await app_state.broker.jobs.retry_dead_letter(job_id)
    if job is None:
        raise no_such_job(job_id)
    if job.ended:
        raise not_dead(job)
    return Response(job.model_dump_json(), media_type="application/json")


@router.get("/{job_id}", summary="State and result", response_model=Job)
async def get_job(job_id: JobPath, caller: CallerDep, wait_s: WaitS = None) -> Response:
    """With `wait_s`, waits for the job to end; answers with its state then in any case."""
    job = await caller.wait_for_job(job_id, wait_s or 0)
    if job is None:
        raise no_such_job(job_id)
    return Response(job.model_dump_json(), media_type="application/json")


@router.delete("/{job_id}", summary="Cancel", response_model=Job)
async def cancel_job(job_id: JobPath, app_state: AppStateDep) -> Response:
    """Cancels a job that has not ended. One that has is returned as it is."""
    job = await app_state.broker.jobs.cancel(job_id)
    if job is None:
        raise no_such_job(job_id)
    return Response(job.model_dump_json(), media_type="application/json")


@router.get(
    "/{job_id}/events",
    summary="Follow its progress",
    response_class=Response,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "The events, as they come."},
        204: {"description": "After the last event: nothing more will come."},
    },
)
async def job_events(
    job_id: JobPath,
    app_state: AppStateDep,
    last_event_id: Annotated[
        str | None, Header(description="The `id` of the last event received, to go on after it.")
    ] = None,
) -> Response:
    """Server-sent events: `progress` as the worker reports it, `status` when it changes. The stream
    ends with the job. A reader that comes back with `Last-Event-ID` misses nothing."""
    if last_event_id == END_EVENT_ID:
        return Response(status_code=204)
    after = last_event_id or "0-0"
    if not re.fullmatch(r"[0-9]{1,16}-[0-9]{1,16}", after):
        raise Refusal(
            422,
            "bad_event_id",
            f"{after!r} is no event of this stream. Pass the `id` of the last event received.",
            loc=("header", "last-event-id"),
        )
    if await app_state.broker.jobs.get(job_id) is None:
        raise no_such_job(job_id)
    return EventStream(_events(app_state, job_id, after), app_state.stopping)


async def _events(app_state: AppState, job_id: str, after: str) -> AsyncGenerator[ServerSentEvent]:
    async for item in app_state.broker.jobs.follow(job_id, after):
        if isinstance(item, Event):
            after = item.id
            yield ServerSentEvent("progress", item.data, item.id)
        else:
            state = item.model_dump(mode="json", include={"status", "attempt", "error"})
            yield ServerSentEvent("status", state, END_EVENT_ID if item.ended else after)
