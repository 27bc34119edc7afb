"""`prefstream serve`: the HTTP API."""

import asyncio
from contextlib import suppress

from service import logs, tracing
from service.broker import UNAVAILABLE, Broker, UnusableServer
from service.commands.console import Host, Namespace, Port, fail, read_settings
from service.settings import Settings


def serve(host: Host = "127.0.0.1", port: Port = 8000, namespace: Namespace = None) -> None:
    """Serve the HTTP API. Needs PREFSTREAM_REDIS_URL."""
    settings = read_settings(namespace)
    from service.api import Server, create_app

    logs.configure()
    tracing.configure("prefstream-service")
    try:
        asyncio.run(_check(settings))
    except UnusableServer as error:
        fail(str(error))
    Server(create_app(settings), host, port).run()


async def _check(settings: Settings) -> None:
    """Raises: UnusableServer."""
    async with Broker.connect(settings) as broker:
        with suppress(*UNAVAILABLE):  # the service answers 503 until there is a Redis
            await broker.settings()
