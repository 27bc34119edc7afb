"""The service told to stop while it gives long answers."""

import os
import signal
import subprocess
import sys
import time

import httpx
import pytest

from tests.servers import Server, free_port
from tests.waiting import until


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_long_answers_end_when_the_service_stops(
    server: Server, number: signal.Signals
) -> None:
    port = free_port()
    environment = os.environ | {"PREFSTREAM_REDIS_URL": server.url}
    command = [sys.executable, "-m", "service", "serve", "--port", str(port)]
    with subprocess.Popen(command, env=environment) as process:  # noqa: ASYNC220
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:

            async def live() -> bool:
                try:
                    return (await http.get("/health/live")).is_success
                except httpx.TransportError:
                    return False

            await until(live)
            await http.put("/runs/r", json={})
            job = (await http.post("/sample", json={"prompt": "?"})).json()
            async with (
                http.stream("GET", f"/jobs/{job['id']}/events") as events,
                http.stream("GET", "/runs/r/batches") as batches,
            ):
                first = await anext(events.aiter_lines())
                assert first.startswith("id: ")
                start = time.monotonic()
                process.send_signal(number)
                async for _ in batches.aiter_lines():
                    pass
            assert process.wait(10) == 0, "an orderly end, by whichever signal"
            assert time.monotonic() - start < 5, "well before uvicorn loses its patience"
