"""`prefstream demo`: the whole service on the toy world, for a few minutes, by itself.

Starts everything, measures the policy through POST /sample, sends images with their true captions
and answers through POST /bdhs while a trainer takes the pairs and the worker adopts the weights it
publishes, measures again, and leaves the pairs as JSONL and as a page.
"""

import asyncio
import json
import shutil
import time
from collections import Counter
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from service import logs
from service.client import AsyncClient, image_data
from service.commands.console import fail, progress_bars
from service.commands.local_stack import (
    TOY_TRAINER_SETTINGS,
    LocalStack,
    LocalStackError,
    free_port,
)
from service.schemas import BdhsRequest, BdhsResult, Outcome, RunSettings
from service.web.page import ShownPair, render_pairs
from trainer.evaluation.toy import ToyMetrics, measure_toy
from trainer.toy.dataset import endless_examples, png

RUN = "demo"

RHOS = (0.9, 0.99)
"""The toy sees 36 image tokens: 0.9 leaves some in most draws; the paper's 0.99 mostly none."""

BATCH = int(TOY_TRAINER_SETTINGS["BATCH_SIZE"])
PUBLISH_EVERY = int(TOY_TRAINER_SETTINGS["PUBLISH_EVERY"])

WINDOW = 3 * BATCH
"""Pairs that may be made ahead of the trainer, so that later ones come from newer weights."""

IN_FLIGHT = 64
"""Jobs that are posted at once."""

TIMEOUT_S = 300.0
"""Longest wait for the trainer: for room in the window, or for its last version."""

console = Console(highlight=False)


def demo(
    out: Annotated[Path, typer.Option(help="Folder to leave the pairs in.")] = Path("demo-out"),
    pairs: Annotated[
        int, typer.Option(help="Pairs to make and to train on.", min=3 * PUBLISH_EVERY * BATCH)
    ] = 96,
    images: Annotated[
        int, typer.Option(help="Held-out images to measure the policy on.", min=2)
    ] = 64,
) -> None:
    """Make real preference pairs on the shipped toy model, train on them, and show them."""
    logs.configure()
    work = out / "work"
    shutil.rmtree(work, ignore_errors=True)
    steps = pairs // BATCH
    stack = LocalStack(
        model="toy",
        embedder="embedded",
        host="127.0.0.1",
        port=free_port(),
        data=work,
        train=["--run", RUN, "--steps", str(steps)],
    )
    try:
        with stack:
            stack.run(_run(stack.url, out, steps, images))
    except (LocalStackError, TimeoutError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("Interrupted.")
    console.print(f"\nPairs: [bold]{out / 'pairs.jsonl'}[/bold]")
    console.print(f"To look at them: [bold]{out / 'pairs.html'}[/bold]")


async def _run(url: str, out: Path, steps: int, images: int) -> None:
    versions = -(-steps // PUBLISH_EVERY)  # the last step publishes, too
    async with AsyncClient(url, retry_for_s=TIMEOUT_S) as client:
        await client.put_run(RUN, RunSettings(window=WINDOW))
        with progress_bars(console) as progress:
            bar = progress.add_task("Measuring the policy on held-out images", total=1)
            before = await measure_toy(client, images)
            progress.update(bar, completed=1)
            following = asyncio.create_task(_follow_versions(client, versions, progress))
            started = time.monotonic()
            results = await _make_pairs(client, steps * BATCH, progress)
            seconds = time.monotonic() - started
            adopted = await following
            bar = progress.add_task("Measuring it again", total=1)
            after = await measure_toy(client, images)
            progress.update(bar, completed=1)
        figures = _figures(results, seconds, adopted, before, after)
        await _write(client, out, results, figures)
    table = Table(show_header=False)
    for name, value in figures:
        table.add_row(name, value)
    console.print(table)


async def _make_pairs(client: AsyncClient, count: int, progress: Progress) -> list[BdhsResult]:
    """BDHS for one reference after another, as fast as the run's window lets them in, until there
    are so many pairs."""
    bar = progress.add_task("Making pairs", total=count)
    requests = (
        BdhsRequest(
            prompt=item.prompt,
            images=[image_data(png(item))],
            reference=item.reference,
            rho=RHOS[number // 2 % len(RHOS)],
            max_tokens=48,
            seed=number,
            run=RUN,
            metadata={"kind": item.kind},
        )
        for number, item in enumerate(endless_examples())
    )
    results: list[BdhsResult] = []
    pairs = 0
    async with aclosing(client.map(requests, in_flight=IN_FLIGHT)) as jobs:
        async for _, job in jobs:
            if not isinstance(job.result, BdhsResult):
                raise RuntimeError(f"job {job.id} {job.status}: {job.error}")
            results.append(job.result)
            pairs += len(job.result.pairs)
            progress.update(bar, completed=pairs)
            if pairs >= count:
                return results
    raise AssertionError("the world of shapes has no end")


async def _follow_versions(client: AsyncClient, last: int, progress: Progress) -> set[int]:
    """The versions that the worker was seen to adopt, until it has the last one."""
    bar = progress.add_task("Training: versions published and adopted", total=last)
    seen: set[int] = set()
    progressed = time.monotonic()
    while last not in seen:
        now = {w.weight_version for w in (await client.weights()).workers} - {0}
        if now - seen:
            progressed = time.monotonic()
        seen |= now
        progress.update(bar, completed=max(seen, default=0))
        if time.monotonic() - progressed > TIMEOUT_S:
            raise TimeoutError(f"No new version for {TIMEOUT_S:.0f} s: see trainer.log.")
        await asyncio.sleep(0.1)
    return seen


def _figures(
    results: list[BdhsResult],
    seconds: float,
    adopted: set[int],
    before: ToyMetrics,
    after: ToyMetrics,
) -> list[tuple[str, str]]:
    """The table: what was made, and how the policy does."""
    traces = [result.trace for result in results if result.trace is not None]
    threshold = BdhsRequest.model_fields["similarity_threshold"].default
    first = sum(trace.iterations[0].similarity < threshold for trace in traces)
    rounds = [len(trace.iterations) for trace in traces]
    kept = [len(i.kept) for trace in traces for step in trace.iterations for i in step.images]
    by_version = Counter(pair.rejected_version for result in results for pair in result.pairs)
    outcomes = Counter(result.outcome for result in results)
    half = before.images // 2
    return [
        ("References", str(len(results))),
        ("Outcomes", ", ".join(f"{outcome}: {n}" for outcome, n in outcomes.most_common())),
        ("Differ in meaning at the first iteration", f"{first / len(traces):.1%}"),
        ("Iterations used, on average", f"{sum(rounds) / len(rounds):.2f}"),
        (
            "Image tokens kept, on average",
            f"{sum(kept) / len(kept):.2f} of {traces[0].images[0].tokens}",
        ),
        ("Masks that kept none", f"{kept.count(0)} of {len(kept)}"),
        ("Pairs a second", f"{outcomes[Outcome.pair] / seconds:.2f}"),
        ("Versions adopted", ", ".join(map(str, sorted(adopted)))),
        ("Pairs by version", ", ".join(f"{v}: {n}" for v, n in sorted(by_version.items()))),
        (
            f"Yes/no accuracy before → after ({half} held-out images)",
            f"{before.yes_no_accuracy:.1%} → {after.yes_no_accuracy:.1%}",
        ),
        (
            f"Captions with a hallucination ({before.images - half} images)",
            f"{before.hallucination_rate:.1%} → {after.hallucination_rate:.1%}",
        ),
    ]


async def _write(
    client: AsyncClient, out: Path, results: list[BdhsResult], figures: list[tuple[str, str]]
) -> None:
    """`pairs.jsonl` with its images beside it, and the page."""
    folder = out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    traces = {pair.pair_id: result.trace for result in results for pair in result.pairs}
    shown: list[ShownPair] = []
    with (out / "pairs.jsonl").open("w") as lines:
        async for pair in client.pairs(RUN):
            image = await client.image(pair.images[0])
            name = f"images/{pair.images[0].removeprefix('sha256:')}.png"
            (out / name).write_bytes(image)
            row = pair.model_dump(mode="json") | {"images": [name]}
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            shown.append(ShownPair(pair, [image], traces.get(pair.pair_id)))
    page = render_pairs(shown, title="Pairs of the toy model", summary=figures)
    (out / "pairs.html").write_text(page)
