"""Runs the app under uvicorn, and lets long answers end when it is told to stop."""

import gc
import signal
from contextlib import suppress
from socket import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.api.protocol import BoundedHeadProtocol

SHUTDOWN_TIMEOUT_S = 10


class Server(uvicorn.Server):
    """Server-sent events and long polls last; without a word to them, a stop would wait."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
            access_log=False,
            log_config=None,
            http=BoundedHeadProtocol,
        )
        super().__init__(config)
        self._app = app

    def run(self, sockets: list[socket] | None = None) -> None:
        gc.collect()
        gc.freeze()  # what is there by now stays: no later collection need look at it
        with suppress(KeyboardInterrupt):  # before it listens to signals
            super().run(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stops in order, and then ends with 0: uvicorn's own would end it by the signal after all.
        A second Ctrl-C does not wait."""
        self.end_long_responses()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    def end_long_responses(self) -> None:
        app_state = getattr(self._app.state, "app_state", None)
        if app_state is not None:
            app_state.stop()
