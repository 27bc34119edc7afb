import pytest

from service.broker import Broker, ImageGone
from tests.service.samples import png

pytestmark = pytest.mark.asyncio


async def test_an_image_is_stored_once_under_its_hash(broker: Broker) -> None:
    ref = await broker.images.put(png("red"))
    assert await broker.images.put(png("red")) == ref
    assert await broker.images.put(png("blue")) != ref
    assert await broker.images.get(ref) == png("red")
    assert await broker.images.exists(ref)
    assert len(await broker.store.redis.keys("prefstream:image:*")) == 2


async def test_an_image_that_is_not_there_says_so(broker: Broker) -> None:
    assert not await broker.images.exists("sha256:0")
    with pytest.raises(ImageGone, match="No image sha256:0 is stored"):
        await broker.images.get("sha256:0")
