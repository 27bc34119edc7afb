"""A worker's HTTP face, for orchestrators and Prometheus: /health/live, /health/ready, /metrics.

It runs in the worker's own event loop, so an answer from /health/live says that the loop turns. A
dead engine does not make it fail: the worker brings that back by itself, sooner than anybody who
would start the worker anew.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

NotReadyReason = Callable[[], Awaitable[str | None]]
"""Why no work can be done now; None: it can."""


@asynccontextmanager
async def serve_monitoring(
    host: str, port: int | None, not_ready_reason: NotReadyReason
) -> AsyncGenerator[None]:
    """Served while the block runs. No port: not at all."""
    if port is None:
        yield
        return
    config = uvicorn.Config(
        _app(not_ready_reason),
        host=host,
        port=port,
        lifespan="off",
        access_log=False,
        log_config=None,
    )
    server = _ServerWithoutSignalHandlers(config)
    serving = asyncio.create_task(server.serve(), name="monitor")
    try:
        yield
    finally:
        server.should_exit = True
        await serving


class _ServerWithoutSignalHandlers(uvicorn.Server):
    """Leaves the signals to the worker."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def _app(not_ready_reason: NotReadyReason) -> Starlette:
    async def live(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        reason = await not_ready_reason()
        if reason is not None:
            return JSONResponse({"status": "unavailable", "reason": reason}, status_code=503)
        return JSONResponse({"status": "ok"})

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return Starlette(
        routes=[
            Route("/health/live", live),
            Route("/health/ready", ready),
            Route("/metrics", metrics),
        ]
    )
