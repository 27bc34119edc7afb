"""The API key."""

import httpx
import pytest

from service.settings import Settings
from tests.servers import Server
from tests.service.http import served

pytestmark = pytest.mark.asyncio


async def test_the_api_key_guards_all_but_health(server: Server) -> None:
    settings = Settings.model_validate({"redis_url": server.url, "api_key": "s3cret"})
    with served(settings) as url:
        async with httpx.AsyncClient(base_url=url) as http:
            assert (await http.get("/health/live")).status_code == 200
            assert (await http.get("/health/ready")).status_code == 200
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}):
                refused = await http.get("/runs/r", headers=headers)
                assert refused.status_code == 401
                assert refused.headers["WWW-Authenticate"] == "Bearer"
                assert refused.json()["code"] == "unauthorized"
            known = await http.get("/runs/r", headers={"Authorization": "Bearer s3cret"})
            assert known.status_code == 404
