"""A server becomes a replica, and another one takes its place behind the same address."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from service.broker import UNAVAILABLE, Broker, Claim, UnusableServer
from service.client import AsyncClient, ServerError
from service.settings import Settings
from tests.servers import Server, flavours, free_port
from tests.service.http import served
from tests.service.samples import bdhs_result, enqueue, enqueue_bdhs, png, sample_request
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

    async def _carry(self, inwards: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        self._carrying.add(asyncio.current_task())  # pyright: ignore[reportArgumentType]
        answers, outwards = await asyncio.open_connection("127.0.0.1", self.server.port)
        with suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(_copy(inwards, outwards), _copy(answers, back))
        for writer in (outwards, back):
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.fixture(params=flavours())
def two_servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    """A server and its replica."""
    servers = Server(request.param, tmp_path / "a"), Server(request.param, tmp_path / "b")
    for server in servers:
        server.start()
    replicate(servers[1], servers[0])
    yield servers
    for server in servers:
        server.kill()


def replicate(server: Server, of: Server | None) -> None:
    to = ("127.0.0.1", of.port) if of else ("NO", "ONE")
    with Redis(port=server.port) as admin:
        admin.execute_command("REPLICAOF", *to)


async def fail_over(address: Address, old: Server, new: Server) -> None:
    async def in_step() -> bool:
        with Redis(port=new.port) as admin:
            state: Any = admin.info("replication")
            with Redis(port=old.port) as primary:
                there: Any = primary.info("replication")
            return (state["master_link_status"], state["slave_repl_offset"]) == (
                "up",
                there["master_repl_offset"],
            )

    await until(in_step)
    replicate(new, None)
    address.server = new
    replicate(old, new)


async def next_claim(broker: Broker) -> Claim:
    """As a worker: however long Redis is away."""
    while True:
        with suppress(*UNAVAILABLE):
            if claims := await broker.claims.claim("w1", 1, block_s=5):
                return claims[0]
        await asyncio.sleep(0.05)


async def test_work_goes_on_at_the_server_that_took_its_place(
    two_servers: tuple[Server, Server],
) -> None:
    old, new = two_servers
    address = Address(old)
    async with address.listen() as url:
        settings = Settings.model_validate({"redis_url": url})
        async with (
            Broker.connect(settings) as worker,
            AsyncClient(url, retry_for_s=60) as direct,
        ):
            with served(settings) as service:
                async with (
                    AsyncClient(service, retry_for_s=60) as client,
                    httpx.AsyncClient(base_url=service) as http,
                ):
                    before = await enqueue_bdhs(worker, run="r")
                    claim = await next_claim(worker)
                    idle = asyncio.create_task(next_claim(worker))  # in a blocking read
                    waiting = asyncio.create_task(direct.wait(before.id))
                    await asyncio.sleep(0)
                    await fail_over(address, old, new)

                    async def finished() -> bool:
                        with suppress(*UNAVAILABLE):
                            return await worker.claims.finish(claim, bdhs_result(claim))
                        return False

                    await until(finished)
                    assert (await waiting).status == "succeeded"
                    for one in (client, direct):
                        after = await one.sample(sample_request())
                        claim = await idle
                        assert claim.job_id == after.id
                        await one.cancel(after.id)
                        await one.store_image(png("blue"))
                        idle = asyncio.create_task(next_claim(worker))
                    idle.cancel()

                    async def ready() -> bool:
                        return (await http.get("/health/ready")).status_code == 200

                    await until(ready)
                    with Redis(port=new.port) as admin:
                        assert admin.exists(f"{{prefstream}}:job:{after.id}")
                    old.kill()
                    third = await client.sample(sample_request())
                    assert (await next_claim(worker)).job_id == third.id


async def test_a_cluster_is_refused(tmp_path: Path) -> None:
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    server = Server("valkey", tmp_path, "everysec", *options)
    server.start()
    try:
        with Redis(port=server.port) as admin:
            admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)

            async def up() -> bool:
                return b"cluster_state:ok" in admin.execute_command("CLUSTER", "INFO")

            await until(up)
        async with Broker.connect(Settings.model_validate({"redis_url": server.url})) as broker:
            with pytest.raises(UnusableServer, match="Redis Cluster, which prefstream does not"):
                await enqueue(broker)
        async with AsyncClient(server.url, retry_for_s=60) as client:
            with pytest.raises(ServerError, match="Cluster"):
                await client.sample(sample_request())
    finally:
        server.kill()
