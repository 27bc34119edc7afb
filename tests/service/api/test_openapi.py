"""What /openapi.json says."""

from datetime import UTC, datetime

import httpx
import pytest

from service.schemas import WorkerInfo

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


async def test_openapi_names_every_route(http: httpx.AsyncClient) -> None:
    spec = (await http.get("/openapi.json")).json()
    assert {"/sample", "/bdhs", "/jobs/{job_id}", "/runs/{run}/pairs"} <= set(spec["paths"])
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
    assert (await http.get("/docs")).status_code == 200
