"""The service under a real uvicorn, in a thread."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager

import httpx
from starlette.applications import Starlette

from service.api import Server, create_app
from service.settings import Settings
from tests.servers import free_port
from tests.waiting import until


def served(settings: Settings) -> AbstractContextManager[str]:
    """The URL of a running service."""
    return serving(create_app(settings))


@contextmanager
def serving(app: Starlette) -> Iterator[str]:
    """The URL of a running app."""
    server = Server(app, "127.0.0.1", free_port())
    started = threading.Event()

    async def run() -> None:
        serving = asyncio.create_task(server.serve())
        await until(lambda: _true(server.started or serving.done()))
        started.set()
        await serving

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="uvicorn")
    thread.start()
    try:
        assert started.wait(20)
        yield f"http://127.0.0.1:{server.config.port}"
    finally:
        server.end_long_responses()
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the service did not stop"


async def sse_events(stream: httpx.Response) -> AsyncIterator[dict[str, str]]:
    """The events of a stream, each with its id, event and data."""
    event: dict[str, str] = {}
    async for line in stream.aiter_lines():
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = value
        elif event:
            yield event
            event = {}


async def _true(value: bool) -> bool:
    return value
