"""A proxy that carries nothing and remembers what it was asked."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import pytest

PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


class Proxy(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        """`METHOD target` of each request: a URL, or of CONNECT `host:port`."""


class _Handler(BaseHTTPRequestHandler):
    def handle_one_request(self) -> None:
        line = self.rfile.readline().decode().split()
        if line:
            cast(Proxy, self.server).asked.append(" ".join(line[:2]))
            self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def proxy_in_environment(monkeypatch: pytest.MonkeyPatch, no_proxy: str = "") -> Iterator[Proxy]:
    """Until the end, every scheme's proxy. `no_proxy`: hosts that NO_PROXY spares."""
    with Proxy() as proxy, monkeypatch.context() as patch:
        for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
            patch.delenv(name)
        for name in PROXY_VARIABLES:
            patch.setenv(name, f"http://127.0.0.1:{proxy.server_port}")
        patch.setenv("NO_PROXY", no_proxy)
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
