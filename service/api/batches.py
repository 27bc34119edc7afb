"""Batches of a run: leased by request, or as a stream."""

from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from service.api.bodies import StrictJsonRoute
from service.api.dependencies import AppState, AppStateDep, CallerDep, LeasePath, RunPath
from service.api.problems import RESPONSES
from service.api.sse import EventStream, ServerSentEvent
from service.broker import UNAVAILABLE, BrokerError
from service.broker.connection import from_milliseconds
from service.problems import no_such_group, no_such_run
from service.schemas import Batch, GroupName, LeaseRenewal, LeaseRequest, LeaseState, LeaseToken

router = APIRouter(prefix="/runs/{run}", tags=["batches"], route_class=StrictJsonRoute)

GroupPath = Annotated[GroupName, Path(description="The group's name.")]

POLL_INTERVAL_S = 10.0
"""How often a stream looks whether it may lease again, if nothing rings."""


@router.post(
    "/leases",
    summary="Lease a batch",
    response_model=Batch,
    responses={204: {"description": "There are not enough pairs yet."}, **RESPONSES},
)
async def lease(run: RunPath, body: LeaseRequest, caller: CallerDep) -> Response:
    """The oldest pairs that the group has not taken yet; what was handed back comes first. A caller
    who hangs up holds nothing."""
    request = body.model_copy(update={"wait_s": caller.app_state.clamp_wait(body.wait_s)})
    batches = caller.app_state.broker.batches
    try:
        batch = await caller.wait_for(batches.lease(run, request))
    except KeyError:
        raise no_such_run(run) from None
    if batch is None:
        return Response(status_code=204)
    if await caller.is_gone():
        await batches.nack(run, batch.lease)
    return Response(batch.model_dump_json(), media_type="application/json")


@router.post(
    "/leases/{lease}/ack", summary="Acknowledge a batch", status_code=204, responses=RESPONSES
)
async def ack(run: RunPath, lease: LeasePath, app_state: AppStateDep) -> None:
    """What its pairs taught is safe, in a checkpoint: they will not be delivered again."""
    await app_state.broker.batches.ack(run, lease)


@router.post(
    "/leases/{lease}/nack", summary="Hand a batch back", status_code=204, responses=RESPONSES
)
async def nack(run: RunPath, lease: LeasePath, app_state: AppStateDep) -> None:
    """Its pairs are delivered again at once, before any others."""
    await app_state.broker.batches.nack(run, lease)


@router.post("/leases/{lease}/renew", summary="Keep a batch", responses=RESPONSES)
async def renew(
    run: RunPath, lease: LeasePath, app_state: AppStateDep, body: LeaseRenewal | None = None
) -> LeaseState:
    lease_s = body.lease_s if body else None
    expiry = await app_state.broker.batches.renew(run, lease, lease_s)
    return LeaseState(lease=lease, expires_at=from_milliseconds(expiry))


@router.delete(
    "/groups/{group}/leases/{token}",
    summary="Give a lease back by its token",
    status_code=204,
    responses=RESPONSES,
)
async def release(
    run: RunPath,
    group: GroupPath,
    token: Annotated[LeaseToken, Path(description="As the request for the lease had it.")],
    app_state: AppStateDep,
) -> None:
    """For callers who did not wait for the answer to their request: whether it was given already or
    not, the lease is handed back, and the request gets nothing any more."""
    await app_state.broker.batches.release(run, group, token)


@router.delete("/groups/{group}", summary="Forget a group", status_code=204, responses=RESPONSES)
async def delete_group(
    run: RunPath,
    group: GroupPath,
    app_state: AppStateDep,
) -> None:
    """For a group whose subscribers will not come back: what it has not acknowledged no longer
    keeps the log from being trimmed."""
    if not await app_state.broker.batches.delete_group(run, group):
        raise no_such_group(run, group)


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
    run: RunPath,
    app_state: AppStateDep,
    size: Annotated[int, Query(ge=1, le=1024, description="Pairs of a batch, at most.")] = 8,
    min_size: Annotated[
        int | None,
        Query(ge=1, le=1024, description="Pairs of a batch, at least; by default `size`."),
    ] = None,
    group: Annotated[GroupName, Query(description="The subscriber group.")] = "trainer",
    lease_s: Annotated[
        float | None,
        Query(
            gt=0,
            le=24 * 3600,
            description="Seconds without renewal after which a batch is delivered again; by "
            "default the service's `batch_lease_s`.",
        ),
    ] = None,
    prefetch: Annotated[
        int, Query(ge=1, le=1024, description="Batches sent and not yet acknowledged, at most.")
    ] = 2,
) -> Response:
    """Server-sent events, a leased `batch` each, to be acknowledged by request. What was sent and
    not acknowledged when the reader closes the stream is handed back. A subscriber that
    acknowledges only at checkpoints sets `prefetch` to what it uses between two, or leases by
    request."""
    if await app_state.broker.runs.get(run) is None:
        raise no_such_run(run)
    request = LeaseRequest(
        group=group,
        size=size,
        min_size=None if min_size is None else min(size, min_size),
        wait_s=POLL_INTERVAL_S,
        lease_s=lease_s,
    )
    return EventStream(_stream(app_state, run, request, prefetch), app_state.stopping)


async def _stream(
    app_state: AppState, run: str, request: LeaseRequest, prefetch: int
) -> AsyncGenerator[ServerSentEvent]:
    sent: list[str] = []
    batches = app_state.broker.batches
    try:
        while True:
            if len(sent) >= prefetch:
                sent = await batches.wait_for_room(
                    run, request.group, sent, prefetch, POLL_INTERVAL_S
                )
                continue
            try:
                batch = await batches.lease(run, request)
            except KeyError:  # the run was deleted
                return
            if batch is not None:
                sent.append(batch.lease)
                yield ServerSentEvent("batch", batch.model_dump_json(), batch.lease)
    finally:
        if not app_state.stopping.is_set():  # the reader has gone, and comes back for none of them
            for lease in sent:
                with suppress(BrokerError, *UNAVAILABLE):
                    await batches.nack(run, lease)
