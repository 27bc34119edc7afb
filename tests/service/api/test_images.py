"""Images stored by their hash."""

from datetime import UTC, datetime

import httpx
import pytest

from service.schemas import WorkerInfo
from tests.service.samples import png

pytestmark = pytest.mark.asyncio

INFO = WorkerInfo(
    id="w1",
    model="toy",
    weight_version=0,
    slots=4,
    running=0,
    engine_ready=True,
    heartbeat_at=datetime(2026, 1, 1, tzinfo=UTC),
)


async def test_images_are_stored_once(http: httpx.AsyncClient) -> None:
    first = await http.post("/images", content=png("blue", (9, 7)))
    assert first.status_code == 201
    stored = first.json()
    assert (stored["format"], stored["width"], stored["height"]) == ("png", 9, 7)
    assert (await http.post("/images", content=png("blue", (9, 7)))).json() == stored
    assert (await http.get(f"/images/{stored['image'][7:]}")).content == png("blue", (9, 7))
    assert (await http.post("/images", content=b"no image")).status_code == 422
