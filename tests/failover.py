"""A server and its replica behind one address, which follows the primary."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from tests.servers import Server
from tests.waiting import until


class Address:
    """A port whose new connections go to a server that can be exchanged. Those that are open stay
    where they are, as with a name or a virtual address that moves."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._carrying: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[str]:
        listener = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        try:
            yield f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}/0"
        finally:
            listener.close()
            for task in self._carrying:
                task.cancel()
            await asyncio.gather(*self._carrying, return_exceptions=True)

    async def _carry(self, inwards: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)
        writers = [back]
        try:
            answers, outwards = await asyncio.open_connection("127.0.0.1", self.server.port)
            writers.append(outwards)
            await asyncio.gather(_copy(inwards, outwards), _copy(answers, back))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for writer in writers:
                writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


class ReplicatedServer:
    """A server and its replica behind an address that follows the primary."""

    def __init__(self, primary: Server, replica: Server) -> None:
        """Both run, on empty data."""
        self.primary, self.replica = primary, replica
        self.url = ""
        self._address = Address(primary)
        with Redis(port=replica.port) as admin:
            admin.execute_command("REPLICAOF", "127.0.0.1", primary.port)

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[str]:
        """The URL under which clients reach it; it is `url`, too."""
        async with self._address.listen() as self.url:
            yield self.url

    async def fail_over(self) -> None:
        """The primary becomes the replica, with its connections open, and the replica the primary.
        What was confirmed is kept: the server holds writes back until the other one has them."""
        old, new = self.primary, self.replica

        async def handed_over() -> bool:
            with Redis(port=old.port) as admin:
                state: Any = admin.info("replication")
                if state["role"] == "slave":
                    return True
                if await on_disk():
                    with suppress(ResponseError):  # it is not in step yet, or takes over just now
                        admin.execute_command("FAILOVER", "TIMEOUT", 5000)
            return False

        async def on_disk() -> bool:
            """After a full sync the replica writes its file anew; until then a kill loses it."""
            with Redis(port=new.port) as admin:
                state: Any = admin.info("persistence")
            return not (state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"])

        await until(handed_over)
        self.primary, self.replica = new, old
        self._address.server = new
