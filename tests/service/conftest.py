"""The HTTP face of a broker on a real server."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import pytest_asyncio

from service.broker import Broker
from service.settings import Settings
from tests.servers import Server
from tests.service.http import served


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    with served(api_settings(server)) as url:
        yield url


@pytest_asyncio.fixture
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        yield client


@pytest_asyncio.fixture
async def worker(server: Server) -> AsyncIterator[Broker]:
    """What a worker would see of the same namespace."""
    async with Broker.connect(api_settings(server)) as broker:
        yield broker


def api_settings(server: Server) -> Settings:
    return Settings.model_validate(
        {
            "redis_url": server.url,
            "max_body_bytes": 100_000,
            "max_image_bytes": 50_000,
            "max_image_pixels": 10_000,
            "max_images": 2,
            "max_text_chars": 1_000,
            "retry_base_s": 0,
        }
    )
