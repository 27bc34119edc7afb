"""Errors as problem details."""

import httpx
import pytest

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/jobs/" + "0" * 32, 404),
        ("GET", "/jobs/%00%ff", 404),
        ("GET", "/jobs/x?wait_s=-1", 422),
        ("GET", "/jobs/x?wait_s=nan", 422),
        ("GET", "/jobs/x/events", 404),
        ("DELETE", "/jobs/x", 404),
        ("PATCH", "/jobs/x", 405),
        ("GET", "/runs/unknown", 404),
        ("GET", "/runs/-bad-", 422),
        ("GET", "/runs/unknown/pairs", 404),
        ("GET", "/runs/r/pairs?after=x", 422),
        ("GET", "/runs/r/pairs?limit=0", 422),
        ("GET", "/images/xyz", 422),
        ("GET", "/images/" + "0" * 64, 404),
    ],
)
async def test_every_error_is_a_problem(
    http: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    response = await http.request(method, path)
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert problem["code"]
