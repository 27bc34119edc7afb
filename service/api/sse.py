"""Server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from starlette.responses import StreamingResponse

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
    """Sends events until there are no more, or the server stops."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[ServerSentEvent], stopping: asyncio.Event) -> None:
        super().__init__(
            _encoded(events, stopping),
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )


async def _encoded(
    events: AsyncIterator[ServerSentEvent], stopping: asyncio.Event
) -> AsyncIterator[bytes]:
    stopped = asyncio.ensure_future(stopping.wait())
    coming: asyncio.Task[ServerSentEvent] | None = None
    try:
        while True:
            coming = coming or asyncio.create_task(_next(events))
            await asyncio.wait(
                {coming, stopped}, timeout=KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED
            )
            if coming.done():
                try:
                    yield coming.result().encode()
                except StopAsyncIteration:
                    return
                coming = None
            elif stopped.done():
                return
            else:
                yield b": still here\n\n"
    finally:
        stopped.cancel()
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)


async def _next(events: AsyncIterator[ServerSentEvent]) -> ServerSentEvent:
    return await anext(events)
