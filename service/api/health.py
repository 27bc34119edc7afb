"""/health: is the process alive; can it do its work."""

import asyncio

from fastapi import APIRouter, Response

from service.api.dependencies import AppStateDep
from service.broker import UNAVAILABLE
from service.schemas import Health

router = APIRouter(prefix="/health", tags=["health"])

REDIS_TIMEOUT_S = 2.0


@router.get("/live", summary="The process answers")
async def live() -> dict[str, str]:
    return {"status": "ok"}


@router.get(
    "/ready",
    summary="Jobs can be taken in: Redis is reachable, and deadlines and leases are kept",
    responses={503: {"model": Health, "description": "Not now."}},
)
async def ready(app_state: AppStateDep, response: Response) -> Health:
    """Workers are listed, and not asked for: without one, jobs are accepted and wait."""
    try:
        async with asyncio.timeout(REDIS_TIMEOUT_S):
            workers = await app_state.broker.workers.all()
    except (*UNAVAILABLE, TimeoutError):
        response.status_code = 503
        return Health(status="unavailable", redis=False)
    if failing := sorted(app_state.broker.background.failing):
        response.status_code = 503
        return Health(status="unavailable", redis=True, workers=workers, failing=failing)
    return Health(status="ok", redis=True, workers=workers)
