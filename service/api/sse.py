"""Server-sent events."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

KEEP_ALIVE_S = 15.0
"""A comment after this much silence keeps proxies from closing the connection."""


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    event: str
    data: Any
    """Anything JSON, or a string that is JSON already."""
    id: str

    def encode(self) -> bytes:
        data = self.data if isinstance(self.data, str) else json.dumps(self.data)
        return f"id: {self.id}\nevent: {self.event}\ndata: {data}\n\n".encode()


class EventStream(StreamingResponse):
    """Sends events until there are no more, the reader leaves, or the server stops. In any case the
    events' generator is closed at once."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[ServerSentEvent], stopping: asyncio.Event) -> None:
        super().__init__(
            self._encoded(), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        self._events = events
        self._stopping = stopping
        self._coming: asyncio.Task[ServerSentEvent] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # Here, because what Starlette cancels when the reader leaves cannot await any more.
            if self._coming is not None:
                self._coming.cancel()
                await asyncio.gather(self._coming, return_exceptions=True)
            await self._events.aclose()

    async def _encoded(self) -> AsyncIterator[bytes]:
        stopped = asyncio.ensure_future(self._stopping.wait())
        try:
            while True:
                self._coming = self._coming or asyncio.create_task(_next(self._events))
                await asyncio.wait(
                    {self._coming, stopped},
                    timeout=KEEP_ALIVE_S,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if self._coming.done():
                    coming, self._coming = self._coming, None
                    try:
                        yield coming.result().encode()
                    except StopAsyncIteration:
                        return
                elif stopped.done():
                    return
                else:
                    yield b": still here\n\n"
        finally:
            stopped.cancel()


async def _next(events: AsyncIterator[ServerSentEvent]) -> ServerSentEvent:
    return await anext(events)
