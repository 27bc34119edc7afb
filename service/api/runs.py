"""/runs: settings, figures, and the log of pairs."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from service.api.bodies import StrictJsonRoute
from service.api.dependencies import AppStateDep, RunPath
from service.api.problems import RESPONSES
from service.problems import no_such_run
from service.schemas import Appended, FilteredPage, PairRequest, PairsPage, Run, RunSettings

router = APIRouter(prefix="/runs", tags=["runs"], route_class=StrictJsonRoute, responses=RESPONSES)


@router.get("", summary="List runs")
async def list_runs(app_state: AppStateDep) -> list[Run]:
    runs = [await app_state.broker.runs.get(name) for name in await app_state.broker.runs.names()]
    return [run for run in runs if run is not None]


@router.put("/{run}", summary="Create a run, or change its settings")
async def put_run(run: RunPath, body: RunSettings, app_state: AppStateDep) -> Run:
    """Settings that the body does not name stay as they are. `filters` is one setting: what it does
    not name is no filter any more."""
    return await app_state.broker.runs.put(run, body)


@router.get("/{run}", summary="Settings and figures")
async def get_run(run: RunPath, app_state: AppStateDep) -> Run:
    found = await app_state.broker.runs.get(run)
    if found is None:
        raise no_such_run(run)
    return found


@router.delete("/{run}", summary="Delete a run", status_code=204)
async def delete_run(
    run: RunPath,
    app_state: AppStateDep,
    force: Annotated[
        bool, Query(description="Cancel its open jobs and end its leases; else they are a 409.")
    ] = False,
) -> None:
    """With its log of pairs and its subscriber groups. Ended jobs and dead letters stay."""
    try:
        await app_state.broker.runs.delete(run, force=force)
    except KeyError:
        raise no_such_run(run) from None


@router.get("/{run}/pairs", summary="Read the log", response_model=PairsPage)
async def get_pairs(
    run: RunPath,
    app_state: AppStateDep,
    after: Annotated[str | None, Query(description="The `cursor` of an earlier page.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Pairs at most.")] = 100,
) -> Response:
    """Pairs in the order in which they were made. Takes no lease and changes nothing."""
    try:
        page = await app_state.broker.runs.pairs(run, after, limit)
    except KeyError:
        raise no_such_run(run) from None
    return Response(page.model_dump_json(), media_type="application/json")


@router.get("/{run}/filtered", summary="Read what filters left out", response_model=FilteredPage)
async def get_filtered(
    run: RunPath,
    app_state: AppStateDep,
    after: Annotated[str | None, Query(description="The `cursor` of an earlier page.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Pairs at most.")] = 100,
) -> Response:
    """Pairs that are not in the log and are never leased, each with the names of the filters that
    it lies beyond. The newest are kept, as many as the run's `keep` and `retention` allow."""
    try:
        page = await app_state.broker.runs.filtered(run, after, limit)
    except KeyError:
        raise no_such_run(run) from None
    return Response(page.model_dump_json(), media_type="application/json")


@router.post("/{run}/pairs", summary="Append a pair of a data set", status_code=201)
async def post_pair(
    run: RunPath, body: PairRequest, app_state: AppStateDep, response: Response
) -> Appended:
    """Its method is `offline`. The run's window counts it, as it counts pairs that workers make;
    one that the run was given before (`pair_id`) is answered with 200, and not appended. One that
    lies beyond the run's filters is kept apart: `outcome` says so."""
    runs = app_state.broker.runs
    request = await app_state.intake.request(body, lambda: runs.check_room(run, body.pair_id))
    appended = await runs.append(run, request)
    if appended.repeated:
        response.status_code = 200
    return appended
