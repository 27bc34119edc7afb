"""What stands beside the data: settings that all go by, and the layout of the keys."""

import logging
from typing import Any

import pytest

from service.broker import Broker, UnusableServer, agreement
from service.client import AsyncClient, InvalidRequest, ServerError, image_data
from service.schemas import NamespaceSettings
from service.settings import Settings
from tests.servers import Server
from tests.service.samples import claim_one, enqueue, png, sample_request
from tests.waiting import until


def connected(server: Server, **environment: Any) -> Broker:
    return Broker.connect(Settings.model_validate({"redis_url": server.url} | environment))


async def test_whoever_comes_first_settles_it_and_others_are_told(
    any_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(any_server, lease_s=20) as worker:
        assert (await worker.settings()).lease_s == 20
        job = await enqueue(worker)
        claim = await claim_one(worker)
        async with connected(any_server, lease_s=0.001, max_images=8) as service:
            with caplog.at_level(logging.WARNING):
                await service.sweeper.sweep()
                await service.settings(fresh=True)
            assert service.connection.settings.lease_s == 20
            [told] = caplog.messages
            assert "PREFSTREAM_LEASE_S=0.001 is not used" in told
            assert "lease_s=20" in told
            assert "prefstream settings set lease_s=0.001" in told
            found = await service.jobs.get(job.id)
            assert found
            assert found.status == "running", "its worker keeps it"
        await worker.claims.release(claim)


async def test_who_passes_by_settles_nothing(server: Server) -> None:
    async with AsyncClient(server.url) as client:
        await client.sample(sample_request())
    async with connected(server, max_images=3) as service:
        assert (await service.settings()).max_images == 3


async def test_a_client_on_redis_knows_the_limits(server: Server) -> None:
    async with connected(server, max_images=1) as service:
        await service.settings()
    images = [image_data(png("red")), image_data(png("blue"))]
    async with AsyncClient(server.url) as client:
        with pytest.raises(InvalidRequest, match="at most 1 are taken"):
            await client.sample(sample_request(images=images))
        await client.change_settings(NamespaceSettings(max_images=2))
        await client.sample(sample_request(images=images))
        assert (await client.settings()).max_images == 2


async def test_what_runs_goes_by_a_change(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "REFRESH_S", 0.1)
    async with connected(server) as service, connected(server) as operator:
        await service.settings()
        async with service.claims.revoked() as woken:
            woken.clear()
            changes = NamespaceSettings(max_queue_depth=1, durability="fsync")
            changed = await operator.change_settings(changes)
            assert (changed.max_queue_depth, changed.lease_s) == (1, 30)
            await woken.wait()

        async def knows() -> bool:
            await service.stats()
            return service.connection.settings.max_queue_depth == 1

        await until(knows)
        assert service.connection.settings.durability == "fsync"
        async with connected(server) as later:
            assert (await later.settings()).max_queue_depth == 1


async def test_a_database_that_was_lost_is_settled_anew(server: Server) -> None:
    async with connected(server, lease_s=20) as service:
        await service.settings()
        server.flush()
        await service.settings(fresh=True)
    async with connected(server) as later:
        assert (await later.settings()).lease_s == 20


@pytest.mark.parametrize("layout", ["0", "2"])
async def test_another_layout_is_refused(server: Server, layout: str) -> None:
    async with connected(server) as service:
        await service.settings()
        key = service.connection.key("settings")
        await service.connection.redis.hset(key, "layout", layout)
        before = await service.connection.redis.hgetall(key)
        with pytest.raises(UnusableServer, match=f"layout {layout}, and this .* layout 1 alone"):
            await service.settings(fresh=True)
        async with connected(server, lease_s=5) as other:
            with pytest.raises(UnusableServer):
                await enqueue(other)
            with pytest.raises(UnusableServer):
                await other.change_settings(NamespaceSettings(lease_s=1))
        async with AsyncClient(server.url) as client:
            with pytest.raises(ServerError, match="namespace of its own"):
                await client.runs()
        assert await service.connection.redis.hgetall(key) == before
        assert await service.connection.redis.keys() == [key]


async def test_settings_that_cannot_be_read_are_named(server: Server) -> None:
    async with connected(server) as service:
        await service.settings()
        await service.connection.redis.hset(service.connection.key("settings"), "lease_s", "soon")
        with pytest.raises(UnusableServer, match="lease_s is 'soon'"):
            await service.settings(fresh=True)
