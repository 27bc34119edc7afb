"""/weights: versions of the policy."""

from typing import Annotated

from fastapi import APIRouter, Query

from service.api.bodies import StrictJsonRoute
from service.api.dependencies import AppStateDep
from service.api.problems import RESPONSES
from service.schemas import Weights, WeightVersion

router = APIRouter(
    prefix="/weights", tags=["weights"], route_class=StrictJsonRoute, responses=RESPONSES
)


@router.post("", summary="Announce a version", status_code=201)
async def post_weights(body: WeightVersion, app_state: AppStateDep) -> Weights:
    """Its folder must be complete in the weight store. Workers adopt it while they serve on."""
    await app_state.broker.weights.announce(body)
    return await app_state.broker.weights.state()


@router.get("", summary="The newest version, and what each worker runs")
async def get_weights(
    app_state: AppStateDep,
    settled: Annotated[
        int | None,
        Query(description="Wait until every live worker serves this version, or refused it."),
    ] = None,
    wait_s: Annotated[
        float, Query(ge=0, allow_inf_nan=False, description="Seconds to wait for it, at most.")
    ] = 0,
) -> Weights:
    if settled is not None and wait_s > 0:
        waiting = app_state.broker.weights.wait_adopted(settled, app_state.clamp_wait(wait_s))
        await app_state.until_stopping(waiting)
    return await app_state.broker.weights.state()
