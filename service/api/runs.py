"""/runs: settings, figures, and the log of pairs."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from service.api.bodies import StrictJsonRoute
from service.api.dependencies import Shared
from service.api.problems import RESPONSES
from service.problems import no_such_run
from service.schemas import Appended, PairRequest, PairsPage, Run, RunName, RunSettings

router = APIRouter(prefix="/runs", tags=["runs"], route_class=StrictJsonRoute, responses=RESPONSES)


@router.get("", summary="List runs")
async def list_runs(shared: Shared) -> list[Run]:
    runs = [await shared.broker.runs.get(name) for name in await shared.broker.runs.names()]
    return [run for run in runs if run is not None]


@router.put("/{run}", summary="Create a run, or change its settings")
async def put_run(run: RunName, body: RunSettings, shared: Shared) -> Run:
    return await shared.broker.runs.put(run, body)


@router.get("/{run}", summary="Settings and figures")
async def get_run(run: RunName, shared: Shared) -> Run:
    found = await shared.broker.runs.get(run)
    if found is None:
        raise no_such_run(run)
    return found


@router.delete("/{run}", summary="Delete a run", status_code=204)
async def delete_run(
    run: RunName,
    shared: Shared,
    force: Annotated[
        bool, Query(description="Cancel its open jobs and end its leases; else they are a 409.")
    ] = False,
) -> None:
    """With its log of pairs and its subscriber groups. Ended jobs and dead letters stay."""
    try:
        await shared.broker.runs.delete(run, force=force)
    except KeyError:
        raise no_such_run(run) from None


@router.get("/{run}/pairs", summary="Read the log", response_model=PairsPage)
async def get_pairs(
    run: RunName,
    shared: Shared,
    after: Annotated[str | None, Query(description="The `cursor` of an earlier page.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """Pairs in the order in which they were made. Takes no lease and changes nothing."""
    try:
        page = await shared.broker.runs.pairs(run, after, limit)
    except KeyError:
        raise no_such_run(run) from None
    return Response(page.model_dump_json(), media_type="application/json")


@router.post("/{run}/pairs", summary="Append a pair of a data set", status_code=201)
async def post_pair(
    run: RunName, body: PairRequest, shared: Shared, response: Response
) -> Appended:
    """Its method is `offline`. The run's window counts it, as it counts pairs that workers make;
    one that the run was given before (`pair_id`) is answered with 200, and not appended."""
    appended = await shared.broker.runs.append(run, await shared.intake.request(body))
    if appended.repeated:
        response.status_code = 200
    return appended
