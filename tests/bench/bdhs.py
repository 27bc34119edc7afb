"""Pairs a second through POST /bdhs, against the same token work done in other ways.

    python -m tests.bench.bdhs [toy|real|cache|growth …]
    python -m tests.bench.bdhs --family qwen2_5_vl

The whole service runs: server, API, worker. Its traces say what the engine did, and the rivals of
`tests.bench.rivals` do the same again, in the same run, in turns.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from service.client import AsyncClient
from service.commands.local_stack import LocalStack
from service.schemas import BdhsRequest, BdhsResult
from tests.bench import geometry
from tests.bench.geometry import Geometry
from tests.bench.rivals import MRoPETransformers, RawVllm, Transformers, Work, work_of
from tests.servers import free_port
from worker.embedder import EMBEDDED, Embedder

ENGINE = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_num_seqs": 64,
    "gpu_memory_utilization": 0.1,
}
"""The same for the worker and for raw vLLM."""

ROUNDS = 3

SIZES = ((336, 84), (336, 336), (672, 240), (672, 672))
"""Of pictures, in pixels, for more and more tokens at the real geometry."""

IN_FLIGHT = 64
"""Jobs posted and not yet ended, twice a worker's slots: it always has the next ones."""

os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}

console = Console(width=120, highlight=False)


@contextmanager
def stack(work: Geometry, **worker: object) -> Iterator[str]:
    """The whole service on a model; its address."""
    names = {f"PREFSTREAM_WORKER_{k.upper()}": str(v) for k, v in {**ENGINE, **worker}.items()}
    before = dict(os.environ)
    os.environ.update(names | {"PREFSTREAM_WORKER_MAX_LORA_RANK": "16"})
    try:
        with (
            tempfile.TemporaryDirectory() as data,
            LocalStack(
                model=str(work.model),
                embedder=EMBEDDED,
                host="127.0.0.1",
                port=free_port(),
                data=Path(data),
            ) as parts,
        ):
            yield parts.url
    finally:
        os.environ.clear()
        os.environ.update(before)


async def through_service(url: str, requests: Sequence[BdhsRequest]) -> list[BdhsResult]:
    room = asyncio.Semaphore(IN_FLIGHT)
    async with AsyncClient(url, retry_for_s=600) as client:

        async def one(request: BdhsRequest) -> BdhsResult:
            async with room:
                job = await client.wait((await client.bdhs(request)).id)
            assert isinstance(job.result, BdhsResult), job.error
            return job.result

        return list(await asyncio.gather(*map(one, requests)))


async def embed(
    embedder: Embedder, requests: Sequence[BdhsRequest], results: Sequence[BdhsResult]
) -> None:
    """What the service compared, in the largest batches, as if none of it had been seen."""
    embedder._cache.clear()
    await asyncio.gather(
        *(
            embedder.similarity(iteration.text, request.reference)
            for request, result in zip(requests, results, strict=True)
            for iteration in (result.trace.iterations if result.trace else ())
        )
    )


async def together(
    raw: RawVllm,
    work: Sequence[Work],
    embedder: Embedder,
    requests: Sequence[BdhsRequest],
    results: Sequence[BdhsResult],
) -> None:
    """Neither waits for the other, and each has all of its work from the start."""
    await asyncio.gather(raw.run(work), embed(embedder, requests, results))


async def timed(call) -> tuple[float, object]:  # type: ignore[no-untyped-def]
    started = time.perf_counter()
    value = await call
    return time.perf_counter() - started, value


def rivals(work: Geometry, pairs: int, slow_pairs: int, batches: tuple[int, int] | None) -> None:
    """
    Args:
        slow_pairs: how many of the pairs the slowest rivals do.
        batches: sizes of transformers' batches, under a mask and with rows dropped; null: none, as
            with M-RoPE, whose positions `generate` does not take.
    """
    loop = asyncio.new_event_loop()
    slow = (MRoPETransformers if work.family == "qwen2_5_vl" else Transformers)(str(work.model))
    threads = torch.get_num_threads()
    embedder = Embedder(EMBEDDED)
    seconds: dict[str, list[float]] = defaultdict(list)
    tokens = sentences = iterations = 0

    async def start() -> RawVllm:  # an engine belongs to the loop it was started in
        sends_hidden = slow.token_before is not None
        return RawVllm(model=str(work.model), sends_hidden=sends_hidden, **ENGINE)

    with stack(work) as url:
        raw = loop.run_until_complete(start())
        for turn in range(ROUNDS + 1):
            requests = work.requests(pairs, first=1000 * turn, trace="full")
            took, results = loop.run_until_complete(timed(through_service(url, requests)))
            done = work_of(requests, results, slow.image_token, slow.token_before)
            torch.set_num_threads(1)  # as beside an engine
            embedding, _ = loop.run_until_complete(timed(embed(embedder, requests, results)))
            alone, _ = loop.run_until_complete(timed(raw.run(done)))
            # Under other names, because vLLM has computed these images.
            anew = [replace(item, ref=f"again {item.ref}") for item in done]
            both, _ = loop.run_until_complete(
                timed(together(raw, anew, embedder, requests, results))
            )
            torch.set_num_threads(work.threads or threads)
            if turn == 0:
                continue  # warms up
            tokens += sum(item.tokens for item in done)
            sentences += len(done)
            iterations += sum(len(r.trace.iterations) for r in results)
            few = [item for item in done if item.pair < slow_pairs]
            seconds["service"].append(took / pairs)
            seconds["embedder"].append(embedding / pairs)
            seconds["c"].append(alone / pairs)
            seconds["c and embedder"].append(both / pairs)
            if batches is not None:
                seconds["d"].append(clock(slow.batched, done, batches[1], drop=True) / pairs)
                seconds["b"].append(clock(slow.batched, few, batches[0], drop=False) / slow_pairs)
            seconds["a"].append(clock(slow.one_by_one, few) / slow_pairs)
        raw.stop()
        for task in asyncio.all_tasks(loop):  # vLLM leaves its own
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    ours = statistics.median(seconds["service"])
    embedding = statistics.median(seconds["embedder"])
    table = Table("", "pairs/s", "prefstream is", title=f"{work.name} geometry")
    table.add_row("POST /bdhs, all of it", f"{1 / ours:.2f}", "")
    table.add_row("  less the embedder's time", f"{1 / (ours - embedding):.2f}", "")
    others = {
        "c": "(c) raw vLLM with the plugin",
        "c and embedder": "  and the embedder beside it",
        "a": "(a) transformers, sentence by sentence, attention mask",
    }
    if batches is not None:
        others["b"] = f"(b) transformers, batches of {batches[0]}, attention mask"
        others["d"] = f"(d) transformers, batches of {batches[1]}, rows dropped"
    for name, what in others.items():
        other = statistics.median(seconds[name])
        ratios = [b / a for a, b in zip(seconds["service"], seconds[name], strict=True)]
        table.add_row(what, f"{1 / other:.3f}", f"{statistics.median(ratios):.2f}x")
        if name == "c":
            apart = [
                b / (a - e)
                for a, e, b in zip(
                    seconds["service"], seconds["embedder"], seconds[name], strict=True
                )
            ]
            table.add_row("  less the embedder's time", "", f"{statistics.median(apart):.2f}x")
    console.print(table)
    n = pairs * ROUNDS
    console.print(
        f"{pairs} pairs a round, medians of {ROUNDS} rounds; a pair: "
        f"{iterations / n:.2f} iterations, {sentences / n:.2f} sentences, {tokens / n:.1f} tokens; "
        f"{'(a)' if batches is None else '(a) and (b)'} did {slow_pairs} of the pairs."
    )


def clock(call: Callable[..., None], *arguments: object, **more: object) -> float:
    started = time.perf_counter()
    call(*arguments, **more)
    return time.perf_counter() - started


def throughput(url: str, work: Geometry, count: int, first: int, **settings: object) -> float:
    """Seconds a pair: the median of some rounds, the first thrown away."""
    took: list[float] = []
    for turn in range(ROUNDS + 1):
        requests = work.requests(count, first=first + 1000 * turn, **settings)
        started = time.perf_counter()
        asyncio.run(through_service(url, requests))
        took.append((time.perf_counter() - started) / count)
    return statistics.median(took[1:])


def cache(work: Geometry) -> None:
    """What it brings to run the tower once an image: four masks of each."""
    table = Table("feature cache", "pairs/s", title=f"{work.name} geometry, 4 masks an image")
    took = {}
    for gib in (0.0, 1.0):
        with stack(work, feature_cache_gib=gib) as url:
            took[gib] = throughput(url, work, 16, 0, max_iterations=4, similarity_threshold=-1.0)
        table.add_row("on" if gib else "off", f"{1 / took[gib]:.2f}")
    console.print(table)
    console.print(f"On: {took[0.0] / took[1.0]:.2f}x. Medians of {ROUNDS} rounds of 16 pairs.")


def growth(work: Geometry) -> None:
    """How the cost of a pair grows."""
    one = {"max_iterations": 1}
    table = Table("", "", "ms a pair", "against the first", title=f"{work.name} geometry")
    with stack(work) as url:
        rows: list[tuple[str, str, float]] = []
        for count in (1, 2, 4, 8, 16):
            reference = " ".join(
                (geometry.REFERENCE * 4).split(". ")[0] + "." for _ in range(count)
            )
            rows.append(
                (
                    "sentences",
                    str(count),
                    throughput(url, work, 16, 10_000 * count, reference=reference, **one),
                )
            )
        for jobs in (1, 4, 16, 64):
            rows.append(("jobs in flight", str(jobs), throughput(url, work, jobs, 200_000, **one)))
        for rho in (0.99, 0.9, 0.5, 0.0):
            first = 300_000 + int(rho * 100_000)
            rows.append(("ρ_th", str(rho), throughput(url, work, 8, first, rho=rho, **one)))
        for name, known in (("image tokens", None), ("of images known", 0)):
            for size in SIZES:
                requests = work.requests(1, size=size, **one)
                [result] = asyncio.run(through_service(url, requests))
                assert result.trace is not None
                count, first = str(result.trace.images[0].tokens), 400_000 + sum(size)
                more = {"size": size, "pictures": known, **one}
                rows.append((name, count, throughput(url, work, 16, first, **more)))
    before = ""
    for name, value, seconds in rows:
        if name != before:
            base, before = seconds, name
        table.add_row(name, value, f"{seconds * 1e3:.1f}", f"{seconds / base:.2f}x")
    console.print(table)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Pairs a second through POST /bdhs.")
    parser.add_argument("what", nargs="*", help="toy, real, cache, growth (default: all)")
    parser.add_argument("--family", choices=["qwen2_5_vl"], help="of another geometry, that alone")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if asked.family is not None:
            rivals(geometry.qwen2_5_vl(Path(folder)), 48, 2, None)
            return
        real = geometry.real(Path(folder))
        parts: dict[str, Callable[[], None]] = {
            "toy": lambda: rivals(geometry.toy(), 768, 12, (64, 64)),
            "real": lambda: rivals(real, 48, 2, (8, 32)),
            "cache": lambda: cache(real),
            "growth": lambda: growth(real),
        }
        for name in asked.what or parts:
            parts[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
