"""Images stored by their hash."""

import httpx
import pytest

from tests.service.samples import png

pytestmark = pytest.mark.asyncio


async def test_images_are_stored_once(http: httpx.AsyncClient) -> None:
    first = await http.post("/images", content=png("blue", (9, 7)))
    assert first.status_code == 201
    stored = first.json()
    assert (stored["format"], stored["width"], stored["height"]) == ("png", 9, 7)
    assert (await http.post("/images", content=png("blue", (9, 7)))).json() == stored
    assert (await http.get(f"/images/{stored['image'][7:]}")).content == png("blue", (9, 7))
    assert (await http.post("/images", content=b"no image")).status_code == 422
