"""The longest stall of each event loop, for the largest legal inputs and for hostile ones.

    python -m tests.bench.loop

While a loop is held up, nothing else of its process happens: a service answers nobody, a worker
renews no lease. A service and a worker with the toy policy in a real engine, each a process of its
own with one more task, which sleeps `TICK_S` again and again and notes by how much it overslept.
The first row is what the machine alone brings about.
"""

import asyncio
import io
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from rich.console import Console
from rich.table import Table

from service.api import Server as Service
from service.api import create_app
from service.client import image_data
from service.settings import Settings
from tests.servers import Server, free_port
from trainer.toy.dataset import examples, png

TICK_S = 0.002
WAIT_S = 300
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "CRITICAL",
    "PREFSTREAM_WORKER_EMBEDDER": "embedded",
    "PREFSTREAM_WORKER_ENFORCE_EAGER": "1",
}

Post = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]


async def watch(longest: Any) -> None:
    """Notes the longest stall, in seconds, until cancelled."""
    while True:
        start = time.perf_counter()
        await asyncio.sleep(TICK_S)
        longest.value = max(longest.value, time.perf_counter() - start - TICK_S)


def serve(url: str, port: int, longest: Any) -> None:
    async def run() -> None:
        watching = asyncio.create_task(watch(longest))
        settings = Settings.model_validate({"redis_url": url})
        await Service(create_app(settings), "127.0.0.1", port).serve()
        watching.cancel()

    asyncio.run(run())


def work(url: str, longest: Any) -> None:
    from worker.main import run_worker
    from worker.settings import WorkerSettings

    async def run() -> None:
        watching = asyncio.create_task(watch(longest))
        await run_worker(WorkerSettings(), Settings.model_validate({"redis_url": url}), ())
        watching.cancel()

    asyncio.run(run())


def cases() -> dict[str, Post]:
    settings = Settings()
    [item] = examples(1)
    picture = image_data(png(item))
    sentence = "There is a red circle in the top left. "
    fits = sentence * 40  # of the toy's 1,024 tokens
    whole = settings.max_text_chars - 1_000

    def job(kind: str, **fields: Any) -> Post:
        if kind == "bdhs":
            fields = {"prompt": "Describe the image.", "images": [picture]} | fields
        return lambda http: http.post(f"/{kind}?wait_s={WAIT_S}", json={"prompt": "?"} | fields)

    def long_answers() -> dict[str, Any]:
        return {"responses": [sentence * 35] * 64, "views": [{"rho": i / 16} for i in range(16)]}

    async def nothing(http: httpx.AsyncClient) -> httpx.Response:
        await asyncio.sleep(5)
        return await http.get("/health/ready")

    return {
        "nothing, for 5 s": nothing,
        "/bdhs, a reference that fills the context": job("bdhs", reference=fits),
        "/bdhs, full, guidance: answer": job("bdhs", reference=fits, guidance="answer"),
        "/bdhs, 1,000 sentences": job("bdhs", reference=(sentence * 2600)[:whole]),
        "/bdhs, no end of a sentence": job("bdhs", reference="word " * (whole // 5)),
        "/bdhs, one word": job("bdhs", reference="a" * whole),
        "/bdhs, Han": job("bdhs", reference="一个红色的圆" * (whole // 6)),
        "/bdhs, full stops": job("bdhs", reference="." * whole),
        "/sample, as many characters as may be": job("sample", prompt="word " * (whole // 5)),
        "/sample, 64 answers of 512 tokens": job("sample", n=64, max_tokens=512, stop=["\x00"]),
        "/sample, 8 pictures of 30 million pixels": job("sample", images=[large_picture()] * 8),
        "/logprobs, 64 responses, 16 views": job("logprobs", images=[picture], **long_answers()),
        "metadata of 60,000 characters": job("sample", metadata={"k": "v" * 60_000}),
        "60 MiB of an unknown field": raw(b'{"prompt": "?", "x": "' + b"x" * (60 << 20) + b'"}'),
        "60 MB of unknown fields": raw(json.dumps({str(i): i for i in range(3_200_000)}).encode()),
        "60 MiB that are no JSON": raw(b"[" * (60 << 20)),
        "GET /jobs?limit=1000, after them": lambda http: http.get("/jobs?limit=1000"),
    }


def raw(body: bytes) -> Post:
    return lambda http: http.post(
        "/sample", content=body, headers={"Content-Type": "application/json"}
    )


def large_picture() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (6000, 5000), "red").save(buffer, format="PNG")
    return image_data(buffer.getvalue())


async def measure(url: str, loops: dict[str, Any], table: Table) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S + 10) as http:
        while not await ready(http):
            await asyncio.sleep(0.5)
        await http.post("/sample?wait_s=60", json={"prompt": "?"})  # the first is always slow
        for name, post in cases().items():
            for longest in loops.values():
                longest.value = 0.0
            start = time.perf_counter()
            answer = await post(http)
            table.add_row(
                name,
                *(f"{longest.value * 1e3:.0f}" for longest in loops.values()),
                f"{time.perf_counter() - start:.1f}",
                outcome(answer),
            )


async def ready(http: httpx.AsyncClient) -> bool:
    try:
        return bool((await http.get("/health/ready")).json()["workers"])
    except (httpx.HTTPError, LookupError, ValueError):
        return False


def outcome(answer: httpx.Response) -> str:
    said = answer.json()
    error = said.get("error") or {}
    return f"{answer.status_code} {said.get('code') or error.get('code') or said.get('status', '')}"


def main() -> None:
    os.environ |= ENVIRONMENT
    spawn = multiprocessing.get_context("spawn")
    loops = {name: spawn.Value("d", 0.0) for name in ("service", "worker")}
    table = Table("input", "service, ms", "worker, ms", "answered in, s", "with")
    with tempfile.TemporaryDirectory() as folder:
        server = Server("valkey", Path(folder))
        server.start()
        port = free_port()
        parts = [
            spawn.Process(target=serve, args=(server.url, port, loops["service"])),
            spawn.Process(target=work, args=(server.url, loops["worker"])),
        ]
        try:
            for part in parts:
                part.start()
            asyncio.run(measure(f"http://127.0.0.1:{port}", loops, table))
        finally:
            for part in parts:
                part.terminate()
                part.join()
            server.stop()
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
