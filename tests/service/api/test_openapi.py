"""What /openapi.json says."""

import httpx
import pytest

pytestmark = pytest.mark.asyncio


async def test_openapi_names_every_route(http: httpx.AsyncClient) -> None:
    spec = (await http.get("/openapi.json")).json()
    assert {"/sample", "/bdhs", "/jobs/{job_id}", "/runs/{run}/pairs"} <= set(spec["paths"])
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
    assert (await http.get("/docs")).status_code == 200
