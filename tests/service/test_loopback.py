"""A proxy in the environment carries what goes to others, and nothing that stays here."""

from collections.abc import Iterator

import pytest

from service.client import AsyncClient
from service.client.errors import PrefstreamError
from service.loopback import is_loopback
from tests.proxy import Proxy, proxy_in_environment
from tests.service.test_healthcheck import healthcheck


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxy_in_environment(monkeypatch) as proxy:
        yield proxy


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://127.8.9.10/v1", True),
        ("http://LOCALHOST:8000", True),
        ("http://queue.localhost", True),
        ("https://[::1]:8000", True),
        ("http://0.0.0.0:8000", True),
        ("http://192.168.1.7:8000", False),
        ("http://localhost.example.org", False),
        ("http://queue.internal:8000", False),
        ("http://127.0.0.1.example.org", False),
        ("", False),
    ],
)
def test_what_the_loopback_is(url: str, expected: bool) -> None:
    assert is_loopback(url) is expected


async def test_the_client_reaches_the_loopback(url: str, proxy: Proxy) -> None:
    for here in (url, url.replace("127.0.0.1", "localhost")):
        async with AsyncClient(here) as client:
            assert await client.runs() == []
            assert (await client.health()).status
    assert proxy.asked == []


async def test_a_proxy_that_httpx_cannot_use_is_no_matter_there(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:9")
    async with AsyncClient(url) as client:
        assert await client.runs() == []


async def test_the_client_asks_the_proxy_for_others(proxy: Proxy) -> None:
    async with AsyncClient("http://prefstream.invalid", retry_for_s=0) as client:
        with pytest.raises(PrefstreamError, match="502"):
            await client.runs()
    assert proxy.asked == ["GET http://prefstream.invalid/runs"]


async def test_the_client_minds_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy_in_environment(monkeypatch, no_proxy="prefstream.invalid") as proxy:
        async with AsyncClient("http://prefstream.invalid", retry_for_s=0) as client:
            with pytest.raises(PrefstreamError):
                await client.runs()
        assert proxy.asked == []


def test_the_health_check_reaches_the_loopback(url: str, proxy: Proxy) -> None:
    assert healthcheck(f"{url}/health/ready") == (0, "")
    assert proxy.asked == []


def test_the_health_check_asks_the_proxy_for_others(proxy: Proxy) -> None:
    status, reason = healthcheck("http://prefstream.invalid/health/ready")
    assert (status, reason.split(":")[0]) == (1, "502")
    assert proxy.asked == ["GET http://prefstream.invalid/health/ready"]
