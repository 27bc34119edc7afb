"""Batches of a run: leased by request, or as a stream."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import Field

from service.api.bodies import JsonRoute
from service.api.dependencies import Context, Shared
from service.api.problems import RESPONSES
from service.api.sse import EventStream, Sse
from service.broker.connection import from_milliseconds
from service.problems import Refusal, no_such_run
from service.schemas import Batch, GroupName, LeaseRequest, LeaseState, Model, RunName

router = APIRouter(prefix="/runs/{run}", tags=["batches"], route_class=JsonRoute)

LOOK_S = 10.0
"""How often a stream looks whether it may lease again, if nothing rings."""


class Renewal(Model):
    lease_s: float | None = Field(default=None, gt=0, le=24 * 3600)


@router.post(
    "/leases",
    summary="Lease a batch",
    response_model=Batch,
    responses={204: {"description": "There are not enough pairs yet."}, **RESPONSES},
)
async def lease(run: RunName, body: LeaseRequest, shared: Shared) -> Response:
    """The oldest pairs that the group has not taken yet; what was handed back comes first."""
    request = body.model_copy(update={"wait_s": shared.bounded(body.wait_s)})
    try:
        batch = await shared.unless_stopping(shared.broker.batches.lease(run, request))
    except KeyError:
        raise no_such_run(run) from None
    if batch is None:
        return Response(status_code=204)
    return Response(batch.model_dump_json(), media_type="application/json")


@router.post(
    "/leases/{lease}/ack", summary="Acknowledge a batch", status_code=204, responses=RESPONSES
)
async def ack(run: RunName, lease: str, shared: Shared) -> None:
    """What its pairs taught is safe, in a checkpoint: they will not be delivered again."""
    await shared.broker.batches.ack(run, lease)


@router.post(
    "/leases/{lease}/nack", summary="Hand a batch back", status_code=204, responses=RESPONSES
)
async def nack(run: RunName, lease: str, shared: Shared) -> None:
    """Its pairs are delivered again at once, before any others."""
    await shared.broker.batches.nack(run, lease)


@router.post("/leases/{lease}/renew", summary="Keep a batch", responses=RESPONSES)
async def renew(
    run: RunName, lease: str, shared: Shared, body: Renewal | None = None
) -> LeaseState:
    lease_s = body.lease_s if body else None
    expiry = await shared.broker.batches.renew(run, lease, lease_s)
    return LeaseState(lease=lease, expires_at=from_milliseconds(expiry))


@router.delete("/groups/{group}", summary="Forget a group", status_code=204, responses=RESPONSES)
async def forget(run: RunName, group: GroupName, shared: Shared) -> None:
    """For a group whose subscribers will not come back: what it has not acknowledged no longer
    keeps the log from being trimmed."""
    if not await shared.broker.batches.delete_group(run, group):
        raise Refusal(404, "group_not_found", f"Run {run!r} has no group {group!r}.")


@router.get(
    "/batches",
    summary="Subscribe to batches",
    response_class=Response,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "A leased batch each."},
        **RESPONSES,
    },
)
async def batches(
    run: RunName,
    shared: Shared,
    size: Annotated[int, Query(ge=1, le=1024)] = 8,
    min_size: Annotated[int | None, Query(ge=1, le=1024)] = None,
    group: Annotated[GroupName, Query()] = "trainer",
    lease_s: Annotated[float | None, Query(gt=0, le=24 * 3600)] = None,
    prefetch: Annotated[
        int, Query(ge=1, le=1024, description="Batches sent and not yet acknowledged, at most.")
    ] = 2,
) -> Response:
    """Server-sent events, a leased `batch` each, to be acknowledged by request. A subscriber that
    acknowledges only at checkpoints sets `prefetch` to what it uses between two, or leases by
    request."""
    if await shared.broker.runs.get(run) is None:
        raise no_such_run(run)
    request = LeaseRequest(
        group=group,
        size=size,
        min_size=None if min_size is None else min(size, min_size),
        wait_s=LOOK_S,
        lease_s=lease_s,
    )
    return EventStream(_stream(shared, run, request, prefetch), shared.stopping)


async def _stream(
    shared: Context, run: str, request: LeaseRequest, prefetch: int
) -> AsyncIterator[Sse]:
    sent: list[str] = []
    batches = shared.broker.batches
    while True:
        if len(sent) >= prefetch:
            sent = await batches.active_leases(run, request.group, sent)
        if len(sent) >= prefetch:
            await batches.wait_any_ended(run, request.group, sent, LOOK_S)
        else:
            try:
                batch = await batches.lease(run, request)
            except KeyError:  # the run was deleted
                return
            if batch is not None:
                sent.append(batch.lease)
                yield Sse("batch", batch.model_dump_json(), batch.lease)
