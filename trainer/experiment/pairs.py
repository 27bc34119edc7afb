"""The pairs of the experiment: made once and kept in a file, or made while a trainer takes them."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from service.client import AsyncClient, image_data
from service.schemas import BdhsRequest, BdhsResult, SampleRequest, SampleResult
from trainer.data import SECOND_REJECTED
from trainer.experiment.plan import ExperimentPlan, Source
from trainer.files import write_atomically
from trainer.toy.dataset import Item, examples, png, stream
from trainer.toy.language import caption, with_article
from trainer.toy.world import COLORS, Scene

IN_FLIGHT = 64
"""Jobs that are under way, at most, while pairs are made for a file."""

MAX_TOKENS = 96
"""New tokens at most; the longest caption has about 45."""

CORRUPTIONS: dict[Source, dict[str, Any]] = {
    "noise": {"corruption": "noise"},
    "povid": {"corruption": "noise", "guidance": "token"},
    "answer": {"guidance": "answer", "rho": 1.0},
}

RANKINGS: dict[Source, dict[str, Any]] = {
    "online-scene": {"n": 2, "annotator": "toy"},
    "online-self": {"n": 2, "annotator": "toy-self"},
}
"""Who ranks the policy's samples: the scene, or the policy, asked about each claim. (The model is
too small to follow the instructions of the annotator `self`.)"""

OnProgress = Callable[[str, int, int], None]
"""Is told what is under way, and how many of how many are done."""


@dataclass(frozen=True)
class PairSetSummary:
    """What became of the references."""

    references: int
    pairs: int
    """Made of them; the others came out the same, or empty."""
    first: int
    """Of them, those that differed at the first iteration."""
    iterations: float
    """On average."""


def references(plan: ExperimentPlan, seed: int) -> list[Item]:
    return examples(plan.references, seed=seed)


def is_made(work: Path, plan: ExperimentPlan, source: Source, seed: int) -> bool:
    """Whether the pairs of a source and a seed are kept."""
    return (_folder(work, plan, source, seed) / "made.json").is_file()


def load(
    work: Path, plan: ExperimentPlan, source: Source, seed: int
) -> tuple[Path, PairSetSummary]:
    """The file of pairs that `make` left, and what became of the references."""
    folder = _folder(work, plan, source, seed)
    return folder / "pairs.jsonl", PairSetSummary(**json.loads((folder / "made.json").read_text()))


def _folder(work: Path, plan: ExperimentPlan, source: Source, seed: int) -> Path:
    """Of pairs made as the plan says: other plans have folders of their own."""
    made_as = f"{plan.references}-{plan.rho:g}-{plan.similarity_threshold:g}"
    return work / "pairs" / f"{source}-{seed}-of-{made_as}"


async def make(
    client: AsyncClient,
    plan: ExperimentPlan,
    source: Source,
    seed: int,
    work: Path,
    on_progress: OnProgress,
) -> None:
    """Has the policy make the pairs of a seed, and keeps them.

    Raises: RuntimeError, if a job did not succeed.
    """
    folder = _folder(work, plan, source, seed)
    folder.mkdir(parents=True, exist_ok=True)
    items = references(plan, seed)
    if source == "own":
        items = await _own_captions(client, items, on_progress)
    requests = [bdhs(plan, item, source, seed * 1_000_000 + n) for n, item in enumerate(items)]
    results = await _all(client, requests, f"making pairs ({source})", on_progress)
    lines: list[str] = []
    first, iterations = 0, 0
    for number, (item, result) in enumerate(zip(items, results, strict=True)):
        assert isinstance(result, BdhsResult)
        iterations += result.iterations or 0
        if not result.pairs:
            continue
        [pair] = result.pairs
        first += pair.iterations == 1
        name = f"{number}.png"
        (folder / name).write_bytes(png(item))
        row = pair.model_dump(mode="json") | {"images": [name]}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    (folder / "pairs.jsonl").write_text("".join(lines))
    made = PairSetSummary(len(items), len(lines), first, iterations / len(items))
    write_atomically(folder / "made.json", json.dumps(asdict(made)).encode())


def bdhs(plan: ExperimentPlan, item: Item, source: Source, seed: int, **more: Any) -> BdhsRequest:
    return BdhsRequest(
        prompt=item.prompt,
        images=[image_data(png(item))],
        reference=item.reference,
        similarity_threshold=plan.similarity_threshold,
        max_tokens=MAX_TOKENS,
        seed=seed,
        **CORRUPTIONS.get(source, {"rho": plan.rho}),
        **more,
    )


async def feed(
    client: AsyncClient,
    plan: ExperimentPlan,
    source: Source,
    seed: int,
    run: str,
    *,
    averaged: bool,
) -> None:
    """Posts the references, again and again, each time with another seed, as fast as the run's
    window lets them in, until it is cancelled."""
    items = references(plan, seed)
    for number in count():
        item = items[number % len(items)]
        draw = seed * 1_000_000 + number
        if source in RANKINGS:
            await client.sample(ranked(item, source, draw, run))
        else:
            metadata: dict[str, JsonValue] = {"kind": item.kind}
            if averaged:
                metadata[SECOND_REJECTED] = corrupted(item, draw)
            await client.bdhs(bdhs(plan, item, source, draw, run=run, metadata=metadata))


def ranked(item: Item, source: Source, seed: int, run: str) -> SampleRequest:
    """Two samples of the policy, of which the annotator makes a pair."""
    return SampleRequest(
        prompt=item.prompt,
        images=[image_data(png(item))],
        max_tokens=MAX_TOKENS,
        seed=seed,
        run=run,
        metadata={
            "kind": item.kind,
            "scene": list(item.scene.described),
            "reference": item.reference,
        },
        **RANKINGS[source],
    )


def corrupted(item: Item, seed: int) -> str:
    """The true answer with one thing wrong: how a data set brings a rejected side.

    POVID's were written by a language model that was shown the true answer; this stands in for it.
    """
    rng = stream("examples", seed)
    if item.kind == "yes_no":
        if noun := re.match(r"No, there is no (.*)", item.reference):
            return f"Yes, there is {with_article(noun[1])}"
        return re.sub(r"^Yes, there is an? ", "No, there is no ", item.reference)
    wrong = rng.choice(item.scene.shapes)
    color = rng.choice([color for color in COLORS if color != wrong.color])
    return caption(
        Scene(tuple(replace(s, color=color) if s is wrong else s for s in item.scene.shapes))
    )


async def _own_captions(
    client: AsyncClient, items: Sequence[Item], on_progress: OnProgress
) -> list[Item]:
    """The captions that the policy itself gives, in place of the true ones."""
    asked = [item for item in items if item.kind == "caption"]
    requests = [
        SampleRequest(
            prompt=item.prompt,
            images=[image_data(png(item))],
            temperature=0.0,
            max_tokens=MAX_TOKENS,
        )
        for item in asked
    ]
    results = await _all(client, requests, "asking for captions", on_progress)
    return [
        Item(item.scene, item.kind, item.prompt, result.responses[0].text)
        for item, result in zip(asked, results, strict=True)
        if isinstance(result, SampleResult)
    ]


async def _all(
    client: AsyncClient,
    requests: Sequence[SampleRequest | BdhsRequest],
    what: str,
    on_progress: OnProgress,
) -> list[Any]:
    """The results, in order. Raises: RuntimeError, if a job did not succeed."""
    results: dict[int, Any] = {}
    async for number, job in client.map(requests, in_flight=IN_FLIGHT):
        if job.result is None:
            raise RuntimeError(f"job {job.id} {job.status}: {job.error}")
        results[number] = job.result
        on_progress(what, len(results), len(requests))
    return [results[number] for number in range(len(requests))]
