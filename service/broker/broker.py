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
from service.schemas import NamespaceSettings
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
    def connect(cls, settings: Settings, *, founds: bool = True) -> Self:
        """Connects when first used. `founds`: writes the settings of a new namespace. Raises:
        MissingRedis."""
        return cls(Connection.connect(settings, founds=founds))

    async def settings(self, *, fresh: bool = False) -> Settings:
        """In force in this namespace; `fresh`: now, else some seconds ago. Raises:
        UnusableServer."""
        agreement = self.connection.agreement
        await (agreement.look() if fresh else agreement.keep())
        return agreement.settings

    async def change_settings(self, changes: NamespaceSettings) -> NamespaceSettings:
        """Changes the fields that were set, for all who use the namespace; those that run go by
        them within seconds. Returns all that are in force. Raises: UnusableServer."""
        await self.connection.agreement.change(changes)
        return self.connection.settings.of_namespace()

    async def ping(self) -> None:
        """Raises one of `UNAVAILABLE` if the server is away."""
        await self.connection.command_at_once("PING")

    async def stats(self) -> Stats:
        return await read_stats(self.connection)

    async def close(self) -> None:
        """Calls that are under way raise `Closed`."""
        await self.connection.close()
        await self._notifications.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
