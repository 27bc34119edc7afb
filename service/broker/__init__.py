"""The only room that talks to Redis.

`Broker` holds one connection pool and the rooms beside it: jobs, runs, images, workers.
"""

from typing import Self

from service.broker.bell import Bell
from service.broker.errors import (
    UNAVAILABLE,
    BadCursor,
    BrokerError,
    IdempotencyConflict,
    ImageGone,
    LogChanged,
    LogTrimmed,
    QueueFull,
    WindowFull,
)
from service.broker.figures import Figures, read_figures
from service.broker.images import Images
from service.broker.jobs import Event, Jobs
from service.broker.runs import Runs
from service.broker.store import Store
from service.broker.work import Claim
from service.broker.workers import Workers
from service.settings import Settings

__all__ = [
    "UNAVAILABLE",
    "BadCursor",
    "Broker",
    "BrokerError",
    "Claim",
    "Event",
    "Figures",
    "IdempotencyConflict",
    "ImageGone",
    "Images",
    "Jobs",
    "LogChanged",
    "LogTrimmed",
    "QueueFull",
    "Runs",
    "WindowFull",
    "Workers",
]


class Broker:
    """One namespace on one Redis or Valkey. Use it in the event loop that made it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._bell = Bell(store)
        self.jobs = Jobs(store, self._bell)
        self.runs = Runs(store)
        self.images = Images(store)
        self.workers = Workers(store)

    @classmethod
    def connect(cls, settings: Settings) -> Self:
        """Raises: MissingRedis. Connects when first used."""
        return cls(Store.connect(settings))

    async def ping(self) -> None:
        """Raises one of `UNAVAILABLE` if the server is away."""
        await self.store.command("PING")

    async def figures(self) -> Figures:
        return await read_figures(self.store)

    async def close(self) -> None:
        await self._bell.close()
        await self.store.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
