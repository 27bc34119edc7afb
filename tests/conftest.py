"""Servers and brokers for all tests."""

import logging
import os
from collections.abc import AsyncIterator, Iterator

import hypothesis
import pytest
import pytest_asyncio
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service import tracing
from service.broker import Broker
from service.settings import Settings
from tests.servers import Server, flavours
from tests.service.leaks import find_leaks

# Machines may be busy; no test asserts a time.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.load_profile("default")

# pytest-xdist sets these to its own width, which a console that is made at import would keep.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where tests run in several processes, those that share something costly stay in one: an
    engine, or what their file makes."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            item.add_marker(pytest.mark.xdist_group(_shared(item)))


def _shared(item: pytest.Item) -> str:
    assert isinstance(item, pytest.Function)
    if "served" in item.fixturenames:  # a family's engine
        return f"family-{item.callspec.params['served']}"
    if "engine" in item.fixturenames:
        return "engine"
    return str(item.path.relative_to(item.config.rootpath))


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """A command that a test runs in this process sets up logging, to a stream that is the test's
    own and closes with it."""
    yield
    structlog.reset_defaults()
    logging.captureWarnings(False)
    for handler in logging.root.handlers[:]:
        if isinstance(handler, logging.StreamHandler) and getattr(handler.stream, "closed", False):
            logging.root.removeHandler(handler)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """Started on first use, shared by the session."""
    started: dict[str, Server] = {}
    yield _Started(started, tmp_path_factory)
    for server in started.values():
        server.kill()


class _Started(dict[str, Server]):
    def __init__(self, started: dict[str, Server], folders: pytest.TempPathFactory) -> None:
        super().__init__()
        self._started = started
        self._folders = folders

    def __getitem__(self, flavour: str) -> Server:
        if flavour not in self._started:
            server = Server(flavour, self._folders.mktemp(flavour))
            server.start()
            self._started[flavour] = server
        return self._started[flavour]


@pytest.fixture(params=flavours())
def any_server(request: pytest.FixtureRequest, servers: dict[str, Server]) -> Server:
    """An empty server: the test runs on Valkey and on Redis."""
    server = servers[request.param]
    server.flush()
    return server


@pytest.fixture
def server(servers: dict[str, Server]) -> Server:
    """An empty Valkey, for tests that are not about the server."""
    server = servers["valkey"]
    server.flush()
    return server


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Valkey of this test's own, to be killed and started again. It keeps what it confirmed:
    under `everysec`, a busy disk delays writes by up to two seconds, which a kill then loses."""
    server = Server("valkey", tmp_path_factory.mktemp("own"), appendfsync="always")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def settings(any_server: Server) -> Settings:
    return Settings(redis_url=any_server.url, lease_s=30, retry_base_s=0)  # pyright: ignore[reportArgumentType]


@pytest_asyncio.fixture
async def broker(settings: Settings) -> AsyncIterator[Broker]:
    """A broker whose keys are checked for leaks when the test is done."""
    async with Broker.connect(settings) as broker:
        yield broker
        assert await find_leaks(broker) == []


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    """Where spans go while a test runs."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.set_provider(provider)
    yield exporter
    tracing.set_provider(None)
    provider.shutdown()
