"""Images: stored once, kept while somebody names them."""

import pytest

from service.broker import Broker, ImageGone, images
from service.schemas import JobError
from service.settings import Settings
from tests.service.leaks import find_leaks
from tests.service.samples import (
    bdhs_result,
    claim_one,
    enqueue,
    enqueue_bdhs,
    png,
    sample_result,
)

pytestmark = pytest.mark.asyncio


async def test_an_image_is_stored_once_under_its_hash(broker: Broker) -> None:
    ref = await broker.images.put(png("red"))
    assert await broker.images.put(png("red")) == ref
    assert await broker.images.put(png("blue")) != ref
    assert await broker.images.get(ref) == png("red")
    assert await broker.images.exists(ref)
    assert len(await broker.connection.redis.keys("prefstream:image:*")) == 2


async def test_an_image_that_is_not_there_says_so(broker: Broker) -> None:
    assert not await broker.images.exists("sha256:0")
    with pytest.raises(ImageGone, match="No image sha256:0 is stored"):
        await broker.images.get("sha256:0")


async def test_the_sweep_removes_what_nobody_names(settings: Settings) -> None:
    """An age of nearly nothing, so that only being named keeps an image."""
    async with Broker.connect(settings.model_copy(update={"image_ttl_s": 0.001})) as broker:
        stray, open_job, dead, pair, ended = [
            await broker.images.put(png(colour))
            for colour in ("red", "blue", "green", "white", "black")
        ]
        job = await enqueue(broker, images=[dead])
        await broker.claims.retry(
            await claim_one(broker), JobError(code="x", message="x"), give_up=True
        )
        await enqueue_bdhs(broker, run="r", images=[pair])
        claim = await claim_one(broker)
        await broker.claims.finish(claim, bdhs_result(claim))
        await enqueue(broker, images=[ended])
        await broker.claims.finish(await claim_one(broker), sample_result())
        await enqueue(broker, images=[open_job])

        assert await _sweep(broker) == 2
        for ref in (open_job, dead, pair):
            assert await broker.images.exists(ref)
            assert await broker.connection.redis.ttl(f"prefstream:image:{ref[7:]}") == -1
        for ref in (stray, ended):
            assert not await broker.images.exists(ref)
            assert await broker.connection.redis.ttl(f"prefstream:image:{ref[7:]}") > 0
        with pytest.raises(ImageGone):
            await enqueue(broker, images=[stray])

        assert await broker.images.put(png("red")) == stray  # before its bytes are gone
        assert await broker.connection.redis.ttl(f"prefstream:image:{stray[7:]}") == -1
        await enqueue(broker, images=[stray])
        revived = await broker.jobs.retry_dead_letter(job.id)
        assert revived
        assert revived.status == "queued"
        assert await _sweep(broker) == 0
        assert await find_leaks(broker) == []


async def test_images_that_are_kept_do_not_hide_those_that_are_not(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "SWEEP_PAGE", 4)
    async with Broker.connect(settings.model_copy(update={"image_ttl_s": 0.001})) as broker:
        kept = [await broker.images.put(b"kept %d" % n) for n in range(10)]
        for ref in kept:
            await enqueue(broker, images=[ref])
        strays = [await broker.images.put(b"stray %d" % n) for n in range(10)]
        assert await _sweep(broker) == len(strays)
        assert [await broker.images.exists(ref) for ref in kept] == [True] * len(kept)
        assert [await broker.images.exists(ref) for ref in strays] == [False] * len(strays)


async def test_a_young_image_stays(broker: Broker) -> None:
    ref = await broker.images.put(png())
    assert await _sweep(broker) == 0
    assert await broker.images.exists(ref)


async def test_naming_an_image_makes_it_young(settings: Settings) -> None:
    async with Broker.connect(settings) as broker:
        ref = await broker.images.put(png())
        key = broker.connection.key("images")

        async def age() -> None:
            await broker.connection.redis.zadd(key, {ref: 1})

        async def young() -> bool:
            return float(await broker.connection.redis.zscore(key, ref)) > 1

        await age()
        await enqueue_bdhs(broker, run="r", images=[ref])
        assert await young()
        await age()
        claim = await claim_one(broker)
        assert await young()
        await age()
        await broker.claims.finish(claim, bdhs_result(claim))
        assert await young()


async def _sweep(broker: Broker) -> int:
    """When the server's clock says that every image was named some milliseconds ago."""
    redis = broker.connection.redis
    [(_, newest)] = await redis.zrange(broker.connection.key("images"), -1, -1, withscores=True)
    while True:
        seconds, microseconds = await redis.time()
        if seconds * 1000 + microseconds // 1000 > newest + 2:
            break
    await redis.delete(broker.connection.key("images_swept"))
    return await broker.images.sweep()
