"""`prefstream evaluate pope | captions | toy`. Light to import."""

import asyncio
import json
import os
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from service.client import AsyncClient, PrefstreamError
from service.commands.console import (
    DEFAULT_URL,
    Namespace,
    Url,
    check_namespace,
    client_error,
    fail,
)
from trainer.data.example import InvalidDataset
from trainer.data.images import find_image
from trainer.evaluation import captions as chair
from trainer.evaluation import pope as probing
from trainer.evaluation.ask import Answer, Asker, NoAnswer, Question
from trainer.evaluation.objects import Vocabulary, annotations, read_synonyms
from trainer.evaluation.toy import measure_toy

evaluate = typer.Typer(
    no_args_is_help=True,
    help="Measure the policy as it is served, over POST /sample (docs/evaluation.md).",
)
console = Console()

SETTLE_S = 600.0
"""Longest wait for the workers to serve a version."""

Images = Annotated[
    list[Path] | None, typer.Option(help="Folder of the images; may be given again.")
]
Out = Annotated[Path | None, typer.Option(help="Write the figures there, as JSON.")]
Saved = Annotated[
    Path | None,
    typer.Option("--answers", help="Keep the answers there, and ask none of them again."),
]
Version = Annotated[
    int | None, typer.Option(help="Wait until the workers serve this version, and measure it.")
]
InFlight = Annotated[int, typer.Option(help="Questions at once.", min=1)]
Limit = Annotated[int | None, typer.Option(help="Images or questions, at most.", min=1)]
MaxTokens = Annotated[int, typer.Option(help="New tokens of an answer, at most.", min=1)]

Metrics = dict[str, Mapping[str, float]]
"""By the name of the row."""


@evaluate.command()
def pope(
    files: Annotated[list[Path], typer.Argument(help="POPE's files: random, popular, …")],
    images: Images = None,
    suffix: Annotated[str, typer.Option(help="Text behind every question.")] = "",
    limit: Limit = None,
    max_tokens: MaxTokens = 32,
    url: Url = DEFAULT_URL,
    namespace: Namespace = None,
    version: Version = None,
    in_flight: InFlight = 16,
    out: Out = None,
    answers: Saved = None,
) -> None:
    """POPE: are objects there that are asked for? Accuracy, precision, recall, F1, share of yes."""

    async def run(client: AsyncClient, ask: Ask) -> Metrics:
        sets = [probing.read(file, images or [], suffix=suffix)[:limit] for file in files]
        said = await ask([probe.question for probes in sets for probe in probes], max_tokens)
        rows: Metrics = {}
        for name, probes in zip(probing.names(files), sets, strict=True):
            texts = [answer.text for answer in said[: len(probes)]]
            said = said[len(probes) :]
            rows[name] = asdict(probing.pope_metrics(texts, [probe.yes for probe in probes]))
        return rows | _mean(rows)

    _evaluate("pope", run, url, namespace, version, in_flight, out, answers)


@evaluate.command()
def captions(
    objects: Annotated[
        Path, typer.Argument(help="COCO's instances (.json), or lines of {image, objects}.")
    ],
    images: Images = None,
    prompt: Annotated[str, typer.Option(help="What is asked.")] = "Describe this image in detail.",
    synonyms: Annotated[
        Path | None, typer.Option(help="JSON: lists of words by object, instead of our table.")
    ] = None,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(help="Draws the images that --limit leaves.")] = 0,
    max_tokens: MaxTokens = 512,
    url: Url = DEFAULT_URL,
    namespace: Namespace = None,
    version: Version = None,
    in_flight: InFlight = 16,
    out: Out = None,
    answers: Saved = None,
) -> None:
    """Captions: objects that are not there (CHAIR_i, CHAIR_s), and objects recalled."""

    async def run(client: AsyncClient, ask: Ask) -> Metrics:
        known = annotations(objects)
        table = None if synonyms is None else read_synonyms(synonyms)
        vocabulary = Vocabulary(sorted(set().union(*known.values())), table)
        names = sorted(known)
        if limit is not None and limit < len(names):
            names = random.Random(seed).sample(names, limit)
        folders = [*(images or []), objects.parent]
        try:
            questions = [Question(prompt, find_image(name, folders), name) for name in names]
        except ValueError as error:
            raise InvalidDataset(f"{objects.name}: {error}") from error
        said = await ask(questions, max_tokens)
        figures = chair.caption_metrics(
            [answer.text for answer in said],
            [known[name] for name in names],
            vocabulary,
            [answer.cut for answer in said],
        )
        return {"captions": asdict(figures)}

    _evaluate("captions", run, url, namespace, version, in_flight, out, answers)


@evaluate.command()
def toy(
    count: Annotated[int, typer.Option("--images", help="Held-out images.", min=2)] = 400,
    seed: Annotated[int, typer.Option(help="Of the draw of the images.")] = 0,
    url: Url = DEFAULT_URL,
    namespace: Namespace = None,
    version: Version = None,
    out: Out = None,
) -> None:
    """The toy world's held-out images: half captions, half yes/no questions."""

    async def run(client: AsyncClient, ask: Ask) -> Metrics:
        with console.status(f"Asking about {count} held-out images …"):
            return {"held-out": asdict(await measure_toy(client, count, seed=seed))}

    _evaluate("toy", run, url, namespace, version, 0, out, None)


Ask = Callable[[Sequence[Question], int], Awaitable[list[Answer]]]
"""Questions, and how long an answer may be."""


def _evaluate(
    benchmark: str,
    run: Callable[[AsyncClient, Ask], Awaitable[Metrics]],
    url: str,
    namespace: str | None,
    version: int | None,
    in_flight: int,
    out: Path | None,
    saved: Path | None,
) -> None:
    check_namespace(url, namespace)
    try:
        report = asyncio.run(_measured(benchmark, run, url, namespace, version, in_flight, saved))
    except KeyboardInterrupt:
        kept = f" The answers so far are in {saved}." if saved else ""
        fail(f"Interrupted.{kept}")
    except (InvalidDataset, NoAnswer) as error:
        fail(str(error))
    except (PrefstreamError, ValueError) as error:
        fail(client_error(url, error))
    _print(report)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=2) + "\n")


async def _measured(
    benchmark: str,
    run: Callable[[AsyncClient, Ask], Awaitable[Metrics]],
    url: str,
    namespace: str | None,
    version: int | None,
    in_flight: int,
    saved: Path | None,
) -> dict[str, Any]:
    versions: set[int] = set()
    key = os.environ.get("PREFSTREAM_API_KEY")
    async with AsyncClient(url, api_key=key, namespace=namespace) as client:
        workers = (await client.weights(settled=version, wait_s=SETTLE_S)).workers
        if version is not None and any(w.weight_version != version for w in workers):
            served = ", ".join(f"{w.id}: {w.weight_version}" for w in workers)
            raise InvalidDataset(f"Not all workers serve version {version}. They serve: {served}.")

        async def ask(questions: Sequence[Question], max_tokens: int) -> list[Answer]:
            with _progress() as progress:
                bar = progress.add_task("Asking", total=len(questions))
                asker = Asker(
                    client,
                    max_tokens=max_tokens,
                    in_flight=in_flight,
                    saved=saved,
                    on_answer=lambda: progress.advance(bar),
                )
                answers = await asker.ask(questions)
            versions.update(answer.version for answer in answers)
            return answers

        figures = await run(client, ask)
        if not versions:  # it asked by itself
            workers = (await client.weights()).workers
            versions |= {worker.weight_version for worker in workers}
    if version is not None and versions != {version}:
        raise InvalidDataset(
            f"Answers came from the versions {sorted(versions)}, not from {version} alone."
        )
    return {
        "benchmark": benchmark,
        "models": sorted({worker.model for worker in workers}),
        "versions": sorted(versions),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "figures": figures,
    }


def _mean(rows: Metrics) -> Metrics:
    """Over the files, as the field reports POPE."""
    if len(rows) < 2:
        return {}
    counted = [field.name for field in fields(probing.PopeMetrics)]
    mean = {name: sum(row[name] for row in rows.values()) / len(rows) for name in counted}
    return {"mean": mean | {"questions": sum(row["questions"] for row in rows.values())}}


def _print(report: dict[str, Any]) -> None:
    served = f"{', '.join(report['models'])}, version {', '.join(map(str, report['versions']))}"
    rows: Metrics = report["figures"]
    columns = list(next(iter(rows.values())))
    table = Table("", *(name.replace("_", " ") for name in columns), title=served)
    for name, figures in rows.items():
        table.add_row(name, *(_cell(figures[column]) for column in columns))
    console.print(table)


def _cell(value: float) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))
