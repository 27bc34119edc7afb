"""Waiting without polling: one pub/sub connection a process, handed out to all that wait.

A notification says that something may have changed; the state itself is always read from Redis. So
a lost one (a dropped connection) costs nothing as long as every reconnect wakes everybody.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

from service.broker.background import Background
from service.broker.connection import Connection, Subscription
from service.broker.errors import UNAVAILABLE

RETRY_S = 0.25
CHANNEL = "bell"
"""Of a kind: `{namespace}:bell:<kind>`."""

TASK = "notifications"

QUIET_S = 5.0
"""Silence after which the connection is probed."""


class Notifications:
    """Subjects are `<kind>:<name>`, or just a kind. Each kind has a channel, which is subscribed to
    from the first time that somebody subscribes to it."""

    def __init__(self, connection: Connection, background: Background) -> None:
        self._connection = connection
        self._background = background
        self._kinds: set[str] = set()
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._listener: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()

    @asynccontextmanager
    async def subscribe(self, *subjects: str) -> AsyncGenerator[asyncio.Event]:
        """An event that is set at every notification of the subjects from now on; the caller clears
        it.

        Look at the state after entering, not before: what changes from then on notifies.
        """
        kinds = {subject.partition(":")[0] for subject in subjects}
        if self._listener is None or self._listener.done() or not kinds <= self._kinds:
            self._kinds |= kinds
            self._connected.clear()
            self._listener = asyncio.create_task(self._listen(self._listener), name=TASK)
        event = asyncio.Event()
        for subject in subjects:
            self._waiting.setdefault(subject, set()).add(event)
        try:
            if not self._connected.is_set():
                await self._first_connection()
            yield event
        finally:
            for subject in subjects:
                events = self._waiting[subject]
                events.discard(event)
                if not events:
                    del self._waiting[subject]

    async def _first_connection(self) -> None:
        """Waits for the subscription; if the server is away, says so as a command would. If it is
        there and refuses, whoever waits looks every `RETRY_S`."""
        while not self._connected.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S):
                    await self._connected.wait()
                    return
            await self._connection.command("PING")
            if TASK in self._background.failing:
                return

    async def _listen(self, before: asyncio.Task[None] | None) -> None:
        """Takes over from `before`. Recovers here, and only here, from a lost subscription, and
        from whatever else happens to it."""
        if before is not None:
            before.cancel()
            await asyncio.wait({before})
        while True:
            pubsub = self._connection.subscription()
            channels = [self._connection.key(CHANNEL, kind) for kind in sorted(self._kinds)]
            try:
                await pubsub.subscribe(*channels)
                await self._deliver(pubsub, len(channels))
            except Exception as error:
                if not isinstance(error, UNAVAILABLE):
                    self._background.failed(TASK, error)
                self._connected.clear()
                self._notify_all()  # who waits looks, and meets the error in its own call
                await asyncio.sleep(RETRY_S)
            finally:
                await _discard(pubsub)

    async def _deliver(self, pubsub: Subscription, channels: int) -> None:
        probed, demotions = False, self._connection.demotions
        while True:
            message: dict[str, Any] | None = await pubsub.get_message(timeout=QUIET_S)
            if self._connection.demotions != demotions:
                raise ConnectionError("the server has become a replica")
            if message is None:
                if probed:
                    raise ConnectionError("the subscription does not answer")
                await pubsub.ping()
                probed = True
                continue
            probed = False
            if message["type"] == "subscribe":
                if message["data"] == channels:  # the last of them
                    self._background.worked(TASK)
                    self._connected.set()
                    self._notify_all()
            elif message["type"] == "message":
                for event in self._waiting.get(message["data"], ()):
                    event.set()

    def _notify_all(self) -> None:
        for events in self._waiting.values():
            for event in events:
                event.set()

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
            self._listener = None
        self._notify_all()  # who waits looks, and finds that it is closed


async def _discard(pubsub: Subscription) -> None:
    with suppress(Exception):
        await pubsub.aclose()


async def wait_within(event: asyncio.Event, seconds: float) -> bool:
    """Waits for a notification, and clears it. False: none came."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True
