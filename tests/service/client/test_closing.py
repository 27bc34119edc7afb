"""`close` ends what is under way, whatever it waits for."""

import asyncio
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from service.broker.errors import Closed
from service.client import AsyncClient, Client
from tests.servers import Server
from tests.service.samples import png, sample_request

CALLS: dict[str, Callable[[AsyncClient, str], Any]] = {
    "wait": lambda client, job: client.wait(job),
    "lease": lambda client, _: client.lease("r", wait_s=600),
    "runs": lambda client, _: client.runs(),
    "store": lambda client, _: client.store_image(png("blue")),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("frozen", [False, True])
async def test_close_gives_up_calls_on_redis(own_server: Server, call: str, frozen: bool) -> None:
    client = AsyncClient(own_server.url, retry_for_s=600)
    job = await client.sample(sample_request(run="r"))
    if frozen:  # it answers nothing any more
        own_server.send(signal.SIGSTOP)
    elif call in ("runs", "store"):
        own_server.kill()
    under_way = asyncio.create_task(CALLS[call](client, job.id))
    await asyncio.sleep(0.2)  # it is under way, wherever; no more is asked of this pause
    await client.close()
    with pytest.raises(Closed):
        await under_way
    if frozen:
        own_server.send(signal.SIGCONT)


def test_close_of_the_blocking_client_ends_calls_of_other_threads(server: Server) -> None:
    client = Client(server.url)
    job = client.sample(sample_request())
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            client.wait(job.id)
        except BaseException as error:
            ended.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    client.close()
    waiting.join()
    assert len(ended) == 1
