"""/settings: what all who use the namespace hold alike."""

from fastapi import APIRouter

from service.api.bodies import StrictJsonRoute
from service.api.dependencies import AppStateDep
from service.api.problems import RESPONSES
from service.schemas import NamespaceSettings

router = APIRouter(
    prefix="/settings", tags=["settings"], route_class=StrictJsonRoute, responses=RESPONSES
)


@router.get("", summary="Settings of service, workers and clients")
async def get_settings(app_state: AppStateDep) -> NamespaceSettings:
    return (await app_state.broker.settings(fresh=True)).of_namespace()


@router.patch("", summary="Change some of them")
async def patch_settings(body: NamespaceSettings, app_state: AppStateDep) -> NamespaceSettings:
    """Those that the body names, for all who use the namespace. Processes that run go by them
    within seconds."""
    return await app_state.broker.change_settings(body)
