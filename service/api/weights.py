"""/weights: versions of the policy."""

from typing import Annotated

from fastapi import APIRouter, Query

from service.api.bodies import JsonRoute
from service.api.dependencies import Shared
from service.api.problems import RESPONSES
from service.schemas import Weights, WeightVersion

router = APIRouter(prefix="/weights", tags=["weights"], route_class=JsonRoute, responses=RESPONSES)


@router.post("", summary="Announce a version", status_code=201)
async def post_weights(body: WeightVersion, shared: Shared) -> Weights:
    """Its folder must be complete in the weight store. Workers adopt it while they serve on."""
    await shared.broker.weights.announce(body)
    return await shared.broker.weights.state()


@router.get("", summary="The newest version, and what each worker runs")
async def get_weights(
    shared: Shared,
    settled: Annotated[
        int | None,
        Query(description="Wait until every live worker serves this version, or refused it."),
    ] = None,
    wait_s: Annotated[float, Query(ge=0, allow_inf_nan=False)] = 0,
) -> Weights:
    if settled is not None and wait_s > 0:
        waiting = shared.broker.weights.wait_adopted(settled, shared.bounded(wait_s))
        await shared.unless_stopping(waiting)
    return await shared.broker.weights.state()
