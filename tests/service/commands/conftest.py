import pytest_asyncio

from service.broker import Broker
from service.settings import Settings
from tests.servers import Server


@pytest_asyncio.fixture
async def broker(server: Server):
    async with Broker.connect(Settings(redis_url=server.url)) as broker:  # pyright: ignore[reportArgumentType]
        yield broker
