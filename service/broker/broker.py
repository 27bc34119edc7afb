"""All that can be done with a namespace on one connection, by what it is done with."""

from typing import Self

from service.broker.background import Background
from service.broker.batches import Batches
from service.broker.claims import Claims
from service.broker.connection import Connection
from service.broker.images import Images
from service.broker.jobs import Jobs
from service.broker.notifications import Notifications
from service.broker.runs import Runs
from service.broker.stats import Stats, read_stats
from service.broker.sweeper import Sweeper
from service.broker.weights import Weights
from service.broker.workers import Workers
from service.settings import Settings


class Broker:
    """One namespace on one Redis or Valkey. Use it in the event loop that made it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.background = Background()
        self._notifications = Notifications(connection, self.background)
        self.sweeper = Sweeper(connection)
        self.jobs = Jobs(connection, self._notifications)
        self.claims = Claims(connection, self._notifications, self.sweeper)
        self.runs = Runs(connection)
        self.batches = Batches(connection, self._notifications)
        self.images = Images(connection)
        self.workers = Workers(connection)
        self.weights = Weights(connection, self._notifications, self.workers)

    @classmethod
    def connect(cls, settings: Settings) -> Self:
        """Raises: MissingRedis. Connects when first used."""
        return cls(Connection.connect(settings))

    async def ping(self) -> None:
        """Raises one of `UNAVAILABLE` if the server is away."""
        await self.connection.command("PING")

    async def stats(self) -> Stats:
        return await read_stats(self.connection)

    async def close(self) -> None:
        await self._notifications.close()
        await self.connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
