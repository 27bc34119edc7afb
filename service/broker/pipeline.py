"""Calls to the server that are made at the same time go there together.

One exchange is under way at a time, on a connection of its own; what is called meanwhile goes with
the next. So a call waits for nothing while there is little to do, and a busy process spends less
on each.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.exceptions import (
    AskError,
    MasterDownError,
    NoPermissionError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.broker.errors import (
    ACL_FAILURE,
    CLUSTER,
    REFUSALS,
    Closed,
    NotDurable,
    ServerRefuses,
    UnusableServer,
)

TIMEOUT_S = 10.0
"""Time without an answer after which a connection counts as broken."""

DEMOTED = (ReadOnlyError, MasterDownError)
"""Answers of a server that was made a replica. The one that took its place may be behind the same
address by now, so kept connections are of no use."""

MAX_COMMANDS = 128
"""Calls in one exchange, at most."""

Argument = str | bytes | int | float


class Pipeline:
    """Of one event loop. Each call has its own answer or error; a broken connection is an error of
    all that were under way. A caller that is cancelled does not take its call back."""

    def __init__(self, redis: Any, extra_s: float = 0.0) -> None:
        """`extra_s`: how long the server may take beyond `TIMEOUT_S`."""
        self._redis = redis
        # Its own for good: to take one from the pool for each exchange costs as much as the rest.
        self._connection = redis.connection_pool.make_connection()
        self._extra_s = extra_s
        self.demotions = 0
        """How often the server turned out to be a replica."""
        self._waiting: list[tuple[Sequence[Argument], asyncio.Future[Any]]] = []
        self._sending: asyncio.Task[None] | None = None
        self.closed = False

    async def execute(self, *args: Argument) -> Any:
        """Raises: Closed."""
        if self.closed:
            raise Closed
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((args, answer))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send(), name="pipeline")
        return await answer

    async def close(self) -> None:
        """Gives up what is under way: its callers get `Closed`."""
        self.closed = True
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(Closed())
        await self._disconnect()

    async def _send(self) -> None:
        try:
            while self._waiting:
                sent, self._waiting = self._waiting[:MAX_COMMANDS], self._waiting[MAX_COMMANDS:]
                try:
                    answers: list[Any] = await self._exchange([args for args, _ in sent])
                except asyncio.CancelledError:
                    self._waiting = sent + self._waiting  # `close` tells them
                    raise
                except Exception as error:
                    answers = [error] * len(sent)
                for (_, future), answer in zip(sent, answers, strict=True):
                    if future.done():  # its caller was cancelled
                        continue
                    if isinstance(answer, Exception):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
        finally:
            self._sending = None

    async def _exchange(self, commands: list[Sequence[Argument]]) -> list[Any]:
        """The answer or error of each."""
        async with answered_within(TIMEOUT_S + self._extra_s):
            return await self._connection.retry.call_with_retry(
                lambda: self._send_and_read(commands), self._disconnect
            )

    async def _send_and_read(self, commands: list[Sequence[Argument]]) -> list[Any]:
        answers: list[Any] = []
        try:
            packed = self._connection.pack_commands(commands)
            await self._connection.send_packed_command(packed, check_health=False)
            for args in commands:
                try:
                    answers.append(await self._redis.parse_response(self._connection, args[0]))
                except ResponseError as error:
                    answers.append(translated(error))
        except BaseException:  # what comes later would be taken for an answer to something else
            await self._disconnect()
            raise
        if any(isinstance(answer, DEMOTED) for answer in answers):
            await self.leave()
        return answers

    async def leave(self) -> None:
        """Gives up what connects to this server; what comes next looks up the address anew."""
        self.demotions += 1
        await self._disconnect()
        await self._redis.connection_pool.disconnect(inuse_connections=False)

    async def _disconnect(self, _: Exception | None = None) -> None:
        await self._connection.disconnect(nowait=True)


class DurablePipeline(Pipeline):
    """Calls that are answered when what they changed is on disk (WAITAOF). One sync serves all that
    go together."""

    async def _exchange(self, commands: list[Sequence[Argument]]) -> list[Any]:
        # On the same connection, because WAITAOF is about the writes of its own.
        wait = ("WAITAOF", 1, 0, round(self._extra_s * 1000))
        *answers, synced = await super()._exchange([*commands, wait])
        if isinstance(synced, Exception):
            failure = NotDurable(str(synced))
        elif synced[0] < 1:
            failure = NotDurable(f"no sync within {self._extra_s:g} s")
        else:
            return answers
        return [answer if isinstance(answer, Exception) else failure for answer in answers]


@asynccontextmanager
async def answered_within(seconds: float) -> AsyncGenerator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise RedisTimeoutError(f"no answer within {seconds:g} s") from error
    except ResponseError as error:
        raise translated(error) from None


def translated(answer: Any) -> Any:
    """The answer; of errors, those that are the server's state as what they are."""
    if isinstance(answer, ResponseError) and str(answer).startswith(REFUSALS):
        return ServerRefuses(str(answer))
    if isinstance(answer, AskError):  # MOVED, too
        return UnusableServer(CLUSTER)
    if isinstance(answer, NoPermissionError) or ACL_FAILURE in str(answer):
        return UnusableServer(
            f"The server's ACL does not let this user do what is needed: {answer} At its next "
            "start, this program says all that is missing."
        )
    return answer
