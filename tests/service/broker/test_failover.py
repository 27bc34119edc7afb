"""A server becomes a replica, and another one takes its place behind the same address."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from redis import Redis

from service.broker import UNAVAILABLE, Broker, Claim, UnusableServer
from service.client import AsyncClient, ServerError
from service.settings import Settings
from tests.failover import ReplicatedServer
from tests.servers import Server, flavours, free_port
from tests.service.http import served
from tests.service.samples import bdhs_result, enqueue, enqueue_bdhs, png, sample_request
from tests.waiting import until


@pytest.fixture(params=flavours())
def replicated(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ReplicatedServer]:
    servers = Server(request.param, tmp_path / "a"), Server(request.param, tmp_path / "b")
    for server in servers:
        server.start()
    yield ReplicatedServer(*servers)
    for server in servers:
        server.kill()


async def next_claim(broker: Broker) -> Claim:
    """As a worker: however long Redis is away."""
    while True:
        with suppress(*UNAVAILABLE):
            if claims := await broker.claims.claim("w1", 1, block_s=5):
                return claims[0]
        await asyncio.sleep(0.05)


async def test_work_goes_on_at_the_server_that_took_its_place(
    replicated: ReplicatedServer,
) -> None:
    async with replicated.listen() as url:
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
                    await replicated.fail_over()

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
                    with Redis(port=replicated.primary.port) as admin:
                        assert admin.exists(f"{{prefstream}}:job:{after.id}")
                    replicated.replica.kill()
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
