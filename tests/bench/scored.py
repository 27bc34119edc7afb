"""What it costs that pairs say how likely their sides are.

    python -m tests.bench.scored [toy|sample|bdhs …]

`toy`, `sample`: ranked pairs of POST /sample with `logps` beside such without, in turns, of the toy
and at the real geometry. `bdhs`: scored pairs of POST /bdhs beside raw vLLM on the same token work,
the scoring included, and beside the same pairs unscored.
"""

import asyncio
import base64
import hashlib
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table

from service.checkpoints.input_processor import load_input_processor
from service.checkpoints.settings import InputSettings
from service.client import AsyncClient
from service.rendering import Renderer
from service.schemas import BdhsRequest, BdhsResult, SampleRequest, SampleResult
from tests.bench import geometry
from tests.bench.alphabet import installed
from tests.bench.bdhs import ENGINE, IN_FLIGHT, stack, through_service, timed
from tests.bench.geometry import Geometry
from tests.bench.rivals import RawVllm, Work, work_of

ROUNDS = 3
PAIRS = 12

SIZE = (336, 336)
"""Of the pictures at the real geometry, in pixels: some 1,200 tokens, in seconds on a CPU."""

console = Console(width=120, highlight=False)


def sampled(
    work: Geometry, count: int, first: int, annotator: str, *, logps: bool
) -> list[SampleRequest]:
    """Two samples each, of which the annotator makes a pair."""
    return [
        SampleRequest(
            prompt=request.prompt,
            images=request.images,
            n=2,
            max_tokens=64,
            seed=request.seed,
            annotator=annotator,
            orders="random",
            logps=logps,
        )
        for request in work.requests(count, first=first, size=SIZE)
    ]


async def ranked(url: str, requests: Sequence[SampleRequest]) -> int:
    """How many pairs came of them."""
    pairs = 0
    async with AsyncClient(url, retry_for_s=600) as client:
        async for _, job in client.map(requests, in_flight=IN_FLIGHT):
            assert isinstance(job.result, SampleResult), job.error
            pairs += len(job.result.pairs)
    return pairs


def sample(work: Geometry, count: int, folder: Path) -> None:
    seconds: dict[bool, list[float]] = defaultdict(list)
    pairs = 0
    with installed(folder / "annotator") as annotator, stack(work) as url:
        for turn in range(ROUNDS + 1):
            for logps in (turn % 2 == 0, turn % 2 == 1):
                # Pictures that are known to nobody yet.
                first = 2000 * turn + 1000 * logps
                requests = sampled(work, count, first, annotator, logps=logps)
                took, made = asyncio.run(timed(ranked(url, requests)))
                if turn:  # the first warms up
                    seconds[logps].append(took)
                    pairs += made  # type: ignore[operator]
    ratios = [a / b for a, b in zip(seconds[True], seconds[False], strict=True)]
    table = Table("POST /sample, ranked", "jobs/s", title=f"{work.name} geometry")
    for logps, what in ((False, "without"), (True, "with logps")):
        table.add_row(what, f"{count / statistics.median(seconds[logps]):.2f}")
    console.print(table)
    console.print(
        f"With logps a job takes {statistics.median(ratios):.3f}x of one without. {count} jobs a "
        f"round, medians of {ROUNDS} rounds; {pairs / (2 * ROUNDS * count):.1%} made a pair."
    )


def scoring_of(
    requests: Sequence[BdhsRequest], results: Sequence[BdhsResult], renderer: Renderer
) -> list[Work]:
    """What was asked of the engine to score both sides, with the picture and without."""
    work: list[Work] = []
    for number, (request, result) in enumerate(zip(requests, results, strict=True)):
        encoded = base64.b64decode(request.images[0])
        image = Image.open(BytesIO(encoded)).convert("RGB")
        ref = f"sha256:{hashlib.sha256(encoded).hexdigest()}"
        for pair in result.pairs:
            for answer in renderer.pair_answers(pair):
                ids = [*answer.prompt_token_ids, *answer.token_ids]
                blind = [token for token in ids if token != renderer.image_token_id]
                work.append(Work(number, image, ref, ids, None, 1, scored=True))
                work.append(Work(number, image, ref, blind, [], 1, scored=True))
    return work


def bdhs(work: Geometry) -> None:
    loop = asyncio.new_event_loop()
    inputs = load_input_processor(str(work.model), InputSettings())
    seconds: dict[str, list[float]] = defaultdict(list)

    async def start() -> RawVllm:  # an engine belongs to the loop it was started in
        return RawVllm(model=str(work.model), sends_hidden=False, **ENGINE)

    with stack(work) as url:
        raw = loop.run_until_complete(start())
        for turn in range(ROUNDS + 1):
            requests = work.requests(PAIRS, first=1000 * turn, size=SIZE, trace="full", logps=True)
            took, results = loop.run_until_complete(timed(through_service(url, requests)))
            assert isinstance(results, list)
            everything = [
                *work_of(requests, results, inputs.renderer.image_token_id),
                *scoring_of(requests, results, inputs.renderer),
            ]
            theirs, _ = loop.run_until_complete(timed(raw.run(everything)))
            plain = work.requests(PAIRS, first=1000 * turn + 500, size=SIZE, trace="full")
            unscored, _ = loop.run_until_complete(timed(through_service(url, plain)))
            if turn:  # the first warms up
                seconds["scored"].append(took)
                seconds["raw"].append(theirs)
                seconds["unscored"].append(unscored)
        raw.stop()
    table = Table("POST /bdhs", "pairs/s", "scored is", title=f"{work.name} geometry")
    for name, what in (
        ("scored", "with logps"),
        ("unscored", "without"),
        ("raw", "raw vLLM with the plugin, the same token work"),
    ):
        ratios = [a / b for a, b in zip(seconds[name], seconds["scored"], strict=True)]
        table.add_row(
            what,
            f"{PAIRS / statistics.median(seconds[name]):.2f}",
            "" if name == "scored" else f"{statistics.median(ratios):.2f}x",
        )
    console.print(table)
    console.print(f"{PAIRS} pairs a round, medians of {ROUNDS} rounds.")


def main(arguments: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        real = geometry.real(Path(folder))
        parts: dict[str, Callable[[], None]] = {
            "toy": lambda: sample(geometry.toy(), 192, Path(folder) / "toy"),
            "sample": lambda: sample(real, 12, Path(folder) / "real"),
            "bdhs": lambda: bdhs(real),
        }
        for name in arguments or parts:
            started = time.monotonic()
            parts[name]()
            console.print(f"({time.monotonic() - started:.0f} s)")


if __name__ == "__main__":
    main(sys.argv[1:])
