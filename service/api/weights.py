"""/weights: versions of the policy."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from service import problems
from service.api.bodies import StrictJsonRoute
from service.api.dependencies import AppStateDep, CallerDep
from service.api.problems import RESPONSES
from service.schemas import MAX_VERSION, Weights, WeightVersion

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
    caller: CallerDep,
    settled: Annotated[
        int | None,
        Query(description="Wait until every live worker serves this version, or refused it."),
    ] = None,
    wait_s: Annotated[
        float, Query(ge=0, allow_inf_nan=False, description="Seconds to wait for it, at most.")
    ] = 0,
) -> Weights:
    weights = caller.app_state.broker.weights
    if settled is not None and wait_s > 0:
        await caller.wait_for(weights.wait_adopted(settled, caller.app_state.clamp_wait(wait_s)))
    return await weights.state()


@router.delete("/{version}", summary="Withdraw a version")
async def delete_weights(
    version: Annotated[int, Path(ge=1, le=MAX_VERSION, description="Its number.")],
    app_state: AppStateDep,
) -> Weights:
    """No worker adopts it any more. Those that serve it go back to the newest version that is left,
    or to the model that they were started with. Its number is not used again."""
    if not await app_state.broker.weights.withdraw(version):
        raise problems.no_such_version(version)
    return await app_state.broker.weights.state()
