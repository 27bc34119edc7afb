"""A server whose disk is full: refused, said so, and gone on with where there is room again."""

from collections.abc import Awaitable, Iterator
from pathlib import Path

import httpx
import pytest

from service.broker import UNAVAILABLE, Broker
from service.settings import Settings
from tests.servers import Server
from tests.service.broker.leasing import ids, must_lease
from tests.service.http import served
from tests.service.leaks import find_leaks
from tests.service.samples import append, bdhs_result, claim_one, enqueue_bdhs
from tests.waiting import until


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """One that stays and takes no writes; under `appendfsync always` it would end."""
    server = Server("valkey", tmp_path, appendfsync="everysec")
    server.start()
    yield server
    server.kill()


async def inverse(condition: Awaitable[bool]) -> bool:
    return not await condition


async def test_a_full_disk_loses_nothing(own_server: Server) -> None:
    settings = Settings.model_validate({"redis_url": own_server.url, "lease_s": 600})
    async with Broker.connect(settings) as broker:
        [made] = await append(broker, 1)
        await enqueue_bdhs(broker, run="r")
        claim = await claim_one(broker)
        own_server.fill_disk()

        async def refuses() -> bool:
            try:
                await broker.images.put(b"\x00" * 1000)
            except UNAVAILABLE:
                return True
            return False

        await until(refuses)
        with pytest.raises(UNAVAILABLE):
            await enqueue_bdhs(broker, run="r")
        with pytest.raises(UNAVAILABLE):
            await broker.claims.finish(claim, bdhs_result(claim))
        with served(settings) as url:
            async with httpx.AsyncClient(base_url=url) as http:
                answer = await http.post("/sample", json={"prompt": "What is this?"})
                assert (answer.status_code, answer.json()["code"]) == (503, "redis_unavailable")
                assert "File too large" in answer.json()["detail"]

                async def ready() -> bool:
                    return (await http.get("/health/ready")).status_code == 200

                await until(lambda: inverse(ready()))
                own_server.free_disk()
                await until(ready)
        assert await broker.claims.finish(claim, bdhs_result(claim))
        assert ids(await must_lease(broker)) == [made, claim.job_id]
        assert await find_leaks(broker) == []
    own_server.kill()
    own_server.start()
    async with Broker.connect(settings) as broker:
        assert ids(await must_lease(broker, group="other")) == [made, claim.job_id]
