"""The HTTP face, put together."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version

import structlog
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
from service.broker import UNAVAILABLE, Broker
from service.intake import Intake
from service.settings import Settings

log = structlog.get_logger()

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
        app.state.app_state = AppState(settings, broker, Intake(broker, settings))
        sweeper = asyncio.create_task(_sweep(app.state.app_state), name="sweeper")
        yield
        app.state.app_state.stopping.set()
        sweeper.cancel()


async def _sweep(app_state: AppState) -> None:
    """Keeps deadlines and leases even while no worker asks for jobs, and removes unused images.

    No error ends it: it recovers when Redis does, and while it fails otherwise, the service is not
    ready.
    """
    while True:
        try:
            await app_state.broker.sweeper.sweep()
            await app_state.broker.images.sweep()
        except UNAVAILABLE as error:
            app_state.sweep_error = str(error)  # its repr is no more than its class
            log.warning("sweep failed", reason=app_state.sweep_error)
        except Exception as error:
            if app_state.sweep_error is None:
                log.exception("sweep failed; it is tried again every second")
            app_state.sweep_error = repr(error)
        else:
            app_state.sweep_error = None
        await asyncio.sleep(SWEEP_INTERVAL_S)
