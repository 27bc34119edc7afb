"""PREFSTREAM_DURABILITY=fsync: a job counts as accepted once it is on disk."""

import pytest

from service.broker import Broker, NotDurable
from service.settings import Settings
from tests.servers import Server
from tests.service.samples import claim_one, enqueue


@pytest.fixture
def durable(settings: Settings) -> Settings:
    return settings.model_copy(update={"durability": "fsync"})


async def test_what_is_accepted_is_on_disk(durable: Settings, any_server: Server) -> None:
    async with Broker.connect(durable) as broker:
        if (
            any_server.flavour == "redis"
            and (await broker.connection.redis.info())["redis_version"] < "7.2"
        ):
            with pytest.raises(NotDurable, match="unknown command 'WAITAOF'"):
                await enqueue(broker)
            return
        job = await enqueue(broker)
        assert (await broker.connection.redis.info("persistence"))["aof_pending_bio_fsync"] == 0
        assert (await claim_one(broker)).job_id == job.id


async def test_a_server_without_aof_is_not_durable(own_server: Server) -> None:
    durable = Settings.model_validate({"redis_url": own_server.url, "durability": "fsync"})
    async with Broker.connect(durable) as broker:
        await broker.connection.redis.config_set("appendonly", "no")
        with pytest.raises(NotDurable, match="appendonly is disabled"):
            await enqueue(broker)
