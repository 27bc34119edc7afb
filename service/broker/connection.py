"""The connection to Redis or Valkey, and how commands and scripts run on it.

Every change of state is one `Script`, so it happens whole or not at all. All keys of a namespace
but the images share one hash tag.
"""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol, Self, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import NoScriptError

from service.broker import pipeline
from service.broker.agreement import Agreement
from service.broker.errors import Closed, ServerRefuses
from service.broker.pipeline import (
    DEMOTED,
    TIMEOUT_S,
    Argument,
    DurablePipeline,
    Pipeline,
    answered_within,
)
from service.broker.scripts import P, R, Script
from service.settings import Settings

MAX_BLOCK_S = 5.0
"""Longest blocking read, well below `TIMEOUT_S`; longer waits repeat it."""

CONNECTIONS = 64
"""Of one process, at most. Who finds all in use waits."""


class Subscription(Protocol):
    """What is used of redis-py's pub/sub connection."""

    async def subscribe(self, *channels: str) -> None: ...
    async def ping(self) -> Any: ...
    async def get_message(self, *, timeout: float) -> dict[str, Any] | None: ...
    async def aclose(self) -> None: ...


class Connection:
    """One namespace on one server."""

    def __init__(self, redis: Redis, settings: Settings, *, founds: bool = True) -> None:
        """`founds`: as of `Agreement`."""
        self.redis = cast(Any, redis)  # redis-py's annotations are partly unknown
        self.tag = "{" + settings.namespace + "}"
        self.agreement = Agreement(self, settings, founds=founds)
        self._texts: dict[Script[..., Any], tuple[str, str]] = {}
        self._texts_for: Settings | None = None
        self._pipeline = Pipeline(self.redis)
        self._durable_pipeline = DurablePipeline(self.redis, settings.fsync_timeout_s)

    @property
    def settings(self) -> Settings:
        """In force, as they were last seen."""
        return self.agreement.settings

    @classmethod
    def connect(cls, settings: Settings, *, founds: bool = True) -> Self:
        """Connects lazily: the first command opens the first connection. `founds`: as of
        `Agreement`."""
        pool = cast(Any, BlockingConnectionPool).from_url(
            settings.redis_address,
            max_connections=CONNECTIONS,
            timeout=TIMEOUT_S,
            decode_responses=True,
            # Calls have a timeout of their own. redis-py's (5 s by default) goes through
            # asyncio.wait_for, which before Python 3.12 can swallow a cancellation.
            socket_timeout=None,
            socket_connect_timeout=TIMEOUT_S,
            # Enough for a dropped connection. All scripts may safely run twice; a server that is
            # away longer is the caller's to see.
            retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), retries=3),
        )
        return cls(cast(Any, Redis).from_pool(pool), settings, founds=founds)

    def key(self, *parts: str) -> str:
        return ":".join((self.tag, *parts))

    def image_key(self, digest: str) -> str:
        """Without the hash tag: images are the only large things."""
        return f"{self.settings.namespace}:image:{digest}"

    async def command(self, *args: Argument) -> Any:
        """As `run`, of a plain command."""
        await self.agreement.keep()
        return await self.command_at_once(*args)

    async def command_at_once(self, *args: Argument) -> Any:
        """Without a look at the agreement before."""
        return await self._pipeline.execute(*args)

    async def unpipelined(self, *args: Argument, **options: bool) -> Any:
        """A command on a connection of its own: one that blocks, or is large. Raises: Closed."""
        if self._pipeline.closed:
            raise Closed
        await self.agreement.keep()
        try:
            async with answered_within(pipeline.TIMEOUT_S):
                return await self.redis.execute_command(*args, **options)
        except (*DEMOTED, ServerRefuses):
            await self._pipeline.leave()
            raise

    async def run(self, script: Script[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Raises: UnusableServer, when the namespace is not for this release."""
        await self.agreement.keep()
        return await self.run_at_once(script, *args, **kwargs)

    async def run_at_once(self, script: Script[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Without a look at the agreement before."""
        return await self._run(self._pipeline, script, script.arguments(*args, **kwargs))

    async def run_durably(self, script: Script[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """As `run`; under `durability=fsync`, returns only when the change is on disk.

        Raises: NotDurable.
        """
        await self.agreement.keep()
        durable = self.settings.durability == "fsync"
        to = self._durable_pipeline if durable else self._pipeline
        return await self._run(to, script, script.arguments(*args, **kwargs))

    async def _run(self, to: Pipeline, script: Script[..., Any], args: tuple[Argument, ...]) -> Any:
        text, sha = self.text(script)
        try:
            return await to.execute("EVALSHA", sha, 1, self.tag, *args)
        except NoScriptError:  # a new server, or one that was restarted
            return await to.execute("EVAL", text, 1, self.tag, *args)

    @property
    def demotions(self) -> int:
        """How often the server turned out to have become a replica: what still is connected to it
        must connect anew."""
        return self._pipeline.demotions + self._durable_pipeline.demotions

    def text(self, script: Script[..., Any]) -> tuple[str, str]:
        """The whole script, and the SHA-1 by which the server knows it."""
        if self._texts_for is not self.settings:
            self._texts, self._texts_for = {}, self.settings
        if script not in self._texts:
            text = _constants(self.settings) + script.text
            sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
            self._texts[script] = text, sha
        return self._texts[script]

    def subscription(self) -> Subscription:
        return self.redis.pubsub()

    async def close(self) -> None:
        await self._pipeline.close()
        await self._durable_pipeline.close()
        await self.redis.aclose()


def _constants(settings: Settings) -> str:
    """What scripts know of the settings."""
    constants = {
        "RESULT_TTL_MS": milliseconds(settings.result_ttl_s),
        "IDEMPOTENCY_TTL_MS": milliseconds(settings.idempotency_ttl_s),
        "LEASE_MS": milliseconds(settings.lease_s),
        "MAX_ATTEMPTS": settings.max_attempts,
        "MAX_DEPTH": settings.max_queue_depth,
        "MAX_ENDED": settings.max_ended_jobs,
        "MAX_ENDED_BYTES": settings.max_ended_bytes,
    }
    return "".join(f"local {name} = {value}\n" for name, value in constants.items())


def milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def from_milliseconds(milliseconds: str | int | float) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)


def fields_of(flat: Sequence[Any]) -> dict[str, Any]:
    """The fields of a hash or a stream's entry, which scripts hand out as names and values in
    turn."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
