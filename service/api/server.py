"""Runs the app under uvicorn, and lets long answers end when it is told to stop."""

import gc
from contextlib import suppress
from socket import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

GRACE_S = 10


class Server(uvicorn.Server):
    """Server-sent events and long polls last; without a word to them, a stop would wait."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            timeout_graceful_shutdown=GRACE_S,
            access_log=False,
            log_config=None,
            h11_max_incomplete_event_size=64 * 1024,
        )
        super().__init__(config)
        self._app = app

    def run(self, sockets: list[socket] | None = None) -> None:
        gc.collect()
        gc.freeze()  # what is there by now stays: no later collection need look at it
        with suppress(KeyboardInterrupt):  # uvicorn raises it again once it has stopped in order
            super().run(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.end_long_answers()
        super().handle_exit(sig, frame)

    def end_long_answers(self) -> None:
        context = getattr(self._app.state, "context", None)
        if context is not None:
            context.stop()
