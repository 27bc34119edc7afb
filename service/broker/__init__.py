"""The only room that talks to Redis.

`Broker` holds one connection pool and the rooms beside it: jobs, runs, batches,
images, weights, workers.
"""

from typing import Self

from service.broker.batches import Batches
from service.broker.claims import Claim
from service.broker.errors import (
    UNAVAILABLE,
    BadCursor,
    BrokerError,
    IdempotencyConflict,
    ImageGone,
    LeaseLost,
    LogChanged,
    LogTrimmed,
    NotDurable,
    PairConflict,
    QueueFull,
    RunBusy,
    VersionNotNewer,
    WindowFull,
)
from service.broker.images import Images
from service.broker.jobs import Event, Jobs
from service.broker.notifications import Bell, ring_within
from service.broker.runs import Runs
from service.broker.stats import Figures, read_figures
from service.broker.store import Store
from service.broker.weights import Weights
from service.broker.workers import Workers
from service.settings import Settings

__all__ = [
    "UNAVAILABLE",
    "BadCursor",
    "Batches",
    "Broker",
    "BrokerError",
    "Claim",
    "Event",
    "Figures",
    "IdempotencyConflict",
    "ImageGone",
    "Images",
    "Jobs",
    "LeaseLost",
    "LogChanged",
    "LogTrimmed",
    "NotDurable",
    "PairConflict",
    "QueueFull",
    "RunBusy",
    "Runs",
    "VersionNotNewer",
    "Weights",
    "WindowFull",
    "Workers",
    "ring_within",
]


class Broker:
    """One namespace on one Redis or Valkey. Use it in the event loop that made it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._bell = Bell(store)
        self.jobs = Jobs(store, self._bell)
        self.runs = Runs(store)
        self.batches = Batches(store, self._bell)
        self.images = Images(store)
        self.weights = Weights(store, self._bell)
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
