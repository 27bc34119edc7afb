"""`prefstream serve`: the HTTP API."""

from service import logs, tracing
from service.commands.console import Host, Namespace, Port, read_settings


def serve(host: Host = "127.0.0.1", port: Port = 8000, namespace: Namespace = None) -> None:
    """Serve the HTTP API. Needs PREFSTREAM_REDIS_URL."""
    settings = read_settings(namespace)
    from service.api import Server, create_app

    logs.configure()
    tracing.configure("prefstream-service")
    Server(create_app(settings), host, port).run()
