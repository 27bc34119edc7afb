"""The HTTP face, put together."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from service import tracing
from service.api import (
    batches,
    health,
    images,
    jobs,
    metrics,
    openapi,
    problems,
    runs,
    submit,
    weights,
)
from service.api.auth import ApiKeyMiddleware
from service.api.bodies import BodyLimitMiddleware
from service.api.dependencies import AppState
from service.api.settings import router as settings_router
from service.broker import Broker
from service.intake import Intake
from service.settings import Settings

SWEEP_INTERVAL_S = 1.0


def create_app(settings: Settings) -> FastAPI:
    """Raises: MissingRedis."""
    settings.redis_address  # noqa: B018  refuses early
    app = FastAPI(
        title="prefstream",
        version=version("prefstream"),
        summary="Fresh preference pairs for multimodal alignment.",
        description="Errors are problem details (RFC 9457); docs/api.md says how calls behave.",
        lifespan=_lifespan,
        generate_unique_id_function=openapi.operation_id,
    )
    app.state.settings = settings
    app.state.http_metrics = metrics.HttpMetrics()
    for noun in (submit, jobs, runs, batches, images, weights, health, metrics):
        app.include_router(noun.router)
    app.include_router(settings_router)
    problems.add_handlers(app)
    app.add_middleware(BodyLimitMiddleware, limit=settings.max_body_bytes)
    if settings.api_key is not None:
        app.add_middleware(ApiKeyMiddleware, key=settings.api_key.get_secret_value())
    app.add_middleware(metrics.LatencyMiddleware, http_metrics=app.state.http_metrics)
    openapi.describe(app, needs_key=settings.api_key is not None)
    tracing.instrument(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None]:
    settings: Settings = app.state.settings
    async with Broker.connect(settings) as broker:
        app.state.app_state = AppState(settings, broker, Intake(broker))
        # Deadlines and leases are kept even while no worker asks for jobs.
        sweeps = {"sweeper": broker.sweeper.sweep, "image sweeper": broker.images.sweep}
        tasks = [
            asyncio.create_task(broker.background.repeat(name, sweep, SWEEP_INTERVAL_S), name=name)
            for name, sweep in sweeps.items()
        ]
        yield
        app.state.app_state.stopping.set()
        for task in tasks:
            task.cancel()
