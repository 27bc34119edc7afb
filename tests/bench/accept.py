"""How fast jobs are accepted: POST /sample, beside a bare FastAPI route that does one XADD.

    python -m tests.bench.accept          (needs wrk: apt-get install wrk)

Both under uvicorn with the same settings, each in a process of its own, on one Valkey, in turns.
Ours checks the request against its schema and bounds, enqueues under the queue's depth, and answers
with the job; the bare one looks at nothing.
"""

import json
import multiprocessing
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

from fastapi import FastAPI, Request
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from service.api import Server as Service
from service.api import create_app
from service.settings import Settings
from tests.servers import Server, free_port

CONNECTIONS = (1, 32, 256)
SECONDS = 3
ROUNDS = 3
BODY = json.dumps({"prompt": "What is in the image?", "max_tokens": 64})

SCRIPT = f"""
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = {json.dumps(BODY)}
done = function(summary, latency, requests)
  io.write(string.format("RESULT %d %d %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    summary.errors.status + summary.errors.timeout + summary.errors.connect))
end
"""


def bare(url: str) -> FastAPI:
    """What the least would be."""
    app = FastAPI()
    redis = Redis.from_url(url, max_connections=1000)

    @app.post("/sample", status_code=202)
    async def sample(request: Request) -> dict[str, str]:
        entry = await redis.xadd("bare", {"body": await request.body()})
        return {"id": entry.decode()}

    return app


def serve_bare(url: str, port: int) -> None:
    Service(bare(url), "127.0.0.1", port).run()


def serve_ours(url: str, port: int) -> None:
    settings = Settings.model_validate({"redis_url": url, "max_queue_depth": 10**9})
    Service(create_app(settings), "127.0.0.1", port).run()


def load(port: int, connections: int, script: Path) -> tuple[float, float, float]:
    """Requests per second, and the median and 99th percentile of their times in ms."""
    output = subprocess.run(
        [
            *("wrk", "-t", "1", "-c", str(connections), "-d", str(SECONDS), "-s", str(script)),
            *("--timeout", "30s"),
            f"http://127.0.0.1:{port}/sample",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", output)
    assert found, output
    requests, duration_us, p50_us, p99_us, errors = map(int, found.groups())
    assert not errors, output
    return requests / duration_us * 1e6, p50_us / 1e3, p99_us / 1e3


def answers(port: int) -> bool:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/sample", BODY.encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request) as response:
            return response.status == 202
    except (URLError, ConnectionError):
        return False


def measure(server: Server, serve: Callable[[str, int], None], script: Path) -> list[list[float]]:
    """For each number of connections: requests per second, median and 99th percentile."""
    server.flush()
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(server.url, port))
    process.start()
    try:
        while not answers(port):
            assert process.is_alive()
            time.sleep(0.05)
        return [list(load(port, connections, script)) for connections in CONNECTIONS]
    finally:
        process.terminate()
        process.join()


def main() -> None:
    if shutil.which("wrk") is None:
        sys.exit("The load comes from wrk, which is not on the PATH: apt-get install wrk.")
    with tempfile.TemporaryDirectory() as name:
        script = Path(name, "post.lua")
        script.write_text(SCRIPT)
        server = Server("valkey", Path(name, "server"))
        server.start()
        try:
            rounds = [
                (measure(server, serve_ours, script), measure(server, serve_bare, script))
                for _ in range(ROUNDS)
            ]
        finally:
            server.stop()
    table = Table(
        "connections",
        "ours, requests/s",
        "bare, requests/s",
        "ratio",
        "ours p50, p99, ms",
        "bare p50, p99, ms",
    )
    for index, connections in enumerate(CONNECTIONS):
        ours, least = (
            [
                statistics.median(column)
                for column in zip(*(r[side][index] for r in rounds), strict=True)
            ]
            for side in (0, 1)
        )
        table.add_row(
            str(connections),
            f"{ours[0]:.0f}",
            f"{least[0]:.0f}",
            f"{ours[0] / least[0]:.2f}",
            f"{ours[1]:.1f}, {ours[2]:.1f}",
            f"{least[1]:.1f}, {least[2]:.1f}",
        )
    console = Console(width=120)
    console.print(table)
    console.print(f"{SECONDS} s each; medians of {ROUNDS} rounds.")


if __name__ == "__main__":
    main()
