"""The service under a real uvicorn, in a thread."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from service.api import Server, create_app
from service.settings import Settings
from tests.servers import free_port


@contextmanager
def served(settings: Settings) -> Iterator[str]:
    """The URL of a running service."""
    server = Server(create_app(settings), "127.0.0.1", free_port())
    started = threading.Event()

    async def run() -> None:
        serving = asyncio.create_task(server.serve())
        while not server.started and not serving.done():
            await asyncio.sleep(0.005)
        started.set()
        await serving

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="uvicorn")
    thread.start()
    try:
        assert started.wait(20)
        yield f"http://127.0.0.1:{server.config.port}"
    finally:
        server.end_long_answers()
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the service did not stop"
