"""Callers who hang up: what they waited for ends, and they hold nothing."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from service.api import create_app
from service.broker import Broker
from service.client import AsyncClient, Client
from service.schemas import Batch, LeaseRequest, PairRequest, RunSettings
from tests.servers import Server
from tests.service.api.test_health import INFO
from tests.service.conftest import api_settings
from tests.service.http import serving, sse_events
from tests.service.samples import append, enqueue
from tests.waiting import until

WAITING = {
    "lease": ("POST", "/runs/r/leases", {"size": 2, "wait_s": 60}),
    "lease with a token": ("POST", "/runs/r/leases", {"size": 2, "wait_s": 60, "token": "mine"}),
    "batches": ("GET", "/runs/r/batches?size=2", None),
    "batches, one sent": ("GET", "/runs/r/batches?size=1&prefetch=1", None),
    "post": ("POST", "/sample?wait_s=60", {"prompt": "?", "priority": "low"}),
    "job": ("GET", "/jobs/{job}?wait_s=60", None),
    "events": ("GET", "/jobs/{job}/events", None),
    "weights": ("GET", "/weights?settled=7&wait_s=60", None),
}


@asynccontextmanager
async def sent(url: str, method: str, path: str, body: object) -> AsyncIterator[None]:
    """A request on a connection of its own, which is closed without a look at the answer."""
    target = httpx.URL(url)
    content = b"" if body is None else json.dumps(body).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    _, writer = await asyncio.open_connection(target.host, target.port)
    writer.write(head.encode() + content)
    await writer.drain()
    try:
        yield
    finally:
        writer.close()


@pytest.mark.parametrize("name", WAITING)
async def test_nothing_is_left_of_who_waited(server: Server, worker: Broker, name: str) -> None:
    pairs = await append(worker, 1)
    job = await enqueue(worker, priority="low")
    await worker.workers.heartbeat(INFO)  # one that serves version 0 for ever
    method, path, body = WAITING[name]
    app = create_app(api_settings(server))
    with serving(app) as url:
        loop: asyncio.AbstractEventLoop = app.state.app_state.loop
        idle = tasks(loop)

        async def waits() -> bool:
            return tasks(loop) > idle

        async def is_idle() -> bool:
            return tasks(loop) == idle

        for _ in range(20):
            async with sent(url, method, path.format(job=job.id), body):
                await until(waits)
            await until(is_idle)
    assert await leased(worker) == 0
    pairs += await append(worker, 1)
    batch = await worker.batches.lease("r", LeaseRequest(size=2))
    assert batch
    assert [pair.pair_id for pair in batch.pairs] == pairs


def tasks(loop: asyncio.AbstractEventLoop) -> int:
    """How many run there, but for those that are of no single caller."""
    shared = {"pipeline", "notifications"}
    return sum(task.get_name() not in shared for task in asyncio.all_tasks(loop))


async def leased(worker: Broker) -> int:
    run = await worker.runs.get("r")
    assert run
    return sum(group.leased for group in run.groups)


async def test_a_stream_that_its_reader_closes_hands_back_what_it_sent(
    http: httpx.AsyncClient, worker: Broker
) -> None:
    pairs = await append(worker, 6)
    params = {"size": 2, "prefetch": 3}
    async with http.stream("GET", "/runs/r/batches", params=params) as stream:
        events = sse_events(stream)
        batches = [Batch.model_validate_json((await anext(events))["data"]) for _ in range(3)]
        done = await http.post(f"/runs/r/leases/{batches[0].lease}/ack")
        assert done.status_code == 204
    await until(lambda: _is_free(worker))
    batch = await worker.batches.lease("r", LeaseRequest(size=4))
    assert batch
    assert [pair.pair_id for pair in batch.pairs] == pairs[2:]


async def _is_free(worker: Broker) -> bool:
    return await leased(worker) == 0


@pytest.mark.parametrize("of", ["http", "redis"])
async def test_a_lease_that_its_caller_cancels_is_nobodys(
    url: str, server: Server, worker: Broker, of: str
) -> None:
    pairs = await append(worker, 2)
    async with AsyncClient(url if of == "http" else server.url) as client:
        for number in range(60):
            call = asyncio.create_task(client.lease("r", size=2, wait_s=number % 2))
            for _ in range(number):
                await asyncio.sleep(0)
            if number % 3 == 0:
                await asyncio.sleep(number / 10_000)  # into an answer that is on its way
            call.cancel()
            await asyncio.wait({call})
            if not call.cancelled():
                batch = call.result()
                assert batch
                await batch.nack()
            assert await leased(worker) == 0, f"after {number} steps"
    batch = await worker.batches.lease("r", LeaseRequest(size=2))
    assert batch
    assert [pair.pair_id for pair in batch.pairs] == pairs


@pytest.mark.timeout(60)
def test_a_blocking_lease_that_is_interrupted_is_nobodys(server: Server) -> None:
    """As by Ctrl-C in a notebook, which goes on with the client."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with Client(server.url) as client:
            client.put_run("r", RunSettings())
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(KeyboardInterrupt):
                client.lease("r", size=1, wait_s=1e9)
            pair = PairRequest(prompt="?", chosen="Yes.", rejected="No.")
            client.append("r", pair)
            assert client.lease("r", size=1, wait_s=10)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
