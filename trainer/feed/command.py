"""`prefstream feed`: a data set into a run. Light to import."""

import asyncio
import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from service import logs
from service.client import AsyncClient, PrefstreamError
from service.commands.console import DEFAULT_URL, Namespace, Url, check_namespace, fail
from trainer.data import FORMATS, InvalidDataset, InvalidRow
from trainer.feed.feeder import REQUESTS, Feeder, FeedPlan

log = structlog.get_logger()
console = Console(stderr=True, highlight=False)

LOOK_EVERY_S = 1.0
"""Between two looks at the run's figures."""
TELL_EVERY_S = 30.0
"""Between two lines of the log, where there is no terminal to draw on."""


def feed(
    dataset: Annotated[
        str, typer.Argument(help="`toy`; a file or folder; or OWNER/NAME[:SPLIT] of the hub.")
    ],
    run: Annotated[str, typer.Option(help="The run to feed.")] = "main",
    method: Annotated[
        str, typer.Option(help="bdhs, online, or offline: the data set's own pairs.")
    ] = "bdhs",
    url: Url = DEFAULT_URL,
    namespace: Namespace = None,
    images: Annotated[
        list[Path] | None, typer.Option(help="Folder of the images; may be given again.")
    ] = None,
    dataset_format: Annotated[
        str | None, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")
    ] = None,
    rho: Annotated[float | None, typer.Option(help="bdhs: ρ_th.")] = None,
    corruption: Annotated[
        str | None, typer.Option(help="bdhs: attention, noise or attention+noise.")
    ] = None,
    annotator: Annotated[
        str | None, typer.Option(help="online: self, openai, or one in Python.")
    ] = None,
    n: Annotated[int | None, typer.Option("--n", help="online: responses to rank.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of sampling.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Of a response; bdhs: sentence.")] = None,
    system: Annotated[
        str | None, typer.Option(help="Text of a system turn, for conversations without one.")
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Any other field of the request."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Examples at most.", min=1)] = None,
    epochs: Annotated[int, typer.Option(help="Times over the data set.", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="Another one feeds the same rows anew.")] = 0,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out and count rows that cannot be used.")
    ] = False,
    window: Annotated[int | None, typer.Option(help="Set the run's window.", min=1)] = None,
    in_flight: Annotated[int, typer.Option(help="Examples sent at once.", min=1, max=256)] = 8,
    marks: Annotated[
        Path, typer.Option(help="Folder in which it notes how far it has come.")
    ] = Path(".prefstream/feeds"),
) -> None:
    """Keep a run's window full from a data set. Ctrl-C stops; the same command goes on from there.

    Layouts and methods: docs/data.md.
    """
    if method not in REQUESTS:
        fail(f"--method {method} is none of {', '.join(REQUESTS)}.")
    if dataset_format is not None and dataset_format not in FORMATS:
        fail(f"--format {dataset_format} is none of {', '.join(FORMATS)}.")
    named = {
        "rho": rho,
        "corruption": corruption,
        "annotator": annotator,
        "n": n,
        "temperature": temperature,
        "max_tokens": max_tokens,
    }
    plan = FeedPlan(
        dataset=dataset,
        run=run,
        method=method,
        fields={k: v for k, v in named.items() if v is not None} | _fields(also or []),
        dataset_format=dataset_format,
        system=system,
        images=tuple(images or ()),
        limit=limit,
        epochs=epochs,
        seed=seed,
        skip_bad=skip_bad,
        in_flight=in_flight,
        window=window,
    )
    try:
        plan.check()
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        fail(f"Bad fields for --method {method}.\n" + "\n".join(lines))
    except ValueError as error:
        fail(str(error))
    check_namespace(url, namespace)
    logs.configure()
    try:
        ended = asyncio.run(_feed(plan, url, namespace, marks))
    except InvalidRow as bad:
        fail(f"{bad}\n--skip-bad leaves such rows out, and counts them.")
    except (InvalidDataset, PrefstreamError, ValueError) as error:
        fail(str(error))
    if not ended:
        raise typer.Exit(130)


def _fields(settings: list[str]) -> dict[str, Any]:
    """`--set`: JSON where it is JSON, else text."""
    fields: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            fail(f"--set {setting}: give FIELD=VALUE.")
        with suppress(ValueError):
            value = json.loads(value)
        fields[name] = value
    return fields


async def _feed(plan: FeedPlan, url: str, namespace: str | None, marks: Path) -> bool:
    """False: it was stopped before the end."""
    key = os.environ.get("PREFSTREAM_API_KEY")
    async with (
        AsyncClient(url, api_key=key, namespace=namespace) as client,
        AsyncClient(url, api_key=key, namespace=namespace, retry_for_s=0) as looker,
    ):
        feeder = Feeder(client, plan, marks)
        feeding = asyncio.create_task(feeder.feed())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, feeding.cancel)
        showing = asyncio.create_task(_show(feeder, looker))
        try:
            await feeding
        except asyncio.CancelledError:
            console.print("Stopped. The same command goes on from here.")
            return False
        finally:
            showing.cancel()
            with suppress(asyncio.CancelledError):
                await showing
            for line in _summary(feeder):
                console.print(line)
        return True


async def _show(feeder: Feeder, looker: AsyncClient) -> None:
    """A bar on a terminal; elsewhere a line now and then."""
    plan, stats = feeder.plan, feeder.stats
    if not console.is_terminal:
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            log.info(
                "feeding", run=plan.run, accepted=stats.accepted, state=await _state(feeder, looker)
            )
    total = None if plan.limit is None else plan.limit * plan.epochs
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[state]}"),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(f"{plan.dataset} → {plan.run}", total=total, state="")
        while True:
            progress.update(bar, state=await _state(feeder, looker))
            progress.update(bar, completed=stats.skipped + stats.accepted)
            await asyncio.sleep(LOOK_EVERY_S)


async def _state(feeder: Feeder, looker: AsyncClient) -> str:
    try:
        run = await looker.run(feeder.plan.run)
    except PrefstreamError as error:
        return f"the service is away: {error}"
    waiting = next((g.waiting for g in run.groups if g.name == "trainer"), run.pairs)
    used, window = run.open_jobs + waiting, run.settings.window
    state = f"{feeder.stats.pairs} pairs, window {used}/{window}"
    if used < window:
        return state
    return f"{state}: full, {run.open_jobs} jobs open, {waiting} pairs wait for the trainer"


def _summary(feeder: Feeder) -> list[str]:
    stats = feeder.stats
    if feeder.finished_before:
        return ["All of it was fed before. Another --seed, or more --epochs, feed it again."]
    lines = [f"{stats.accepted} examples accepted, {stats.pairs} pairs made so far."]
    if feeder.resumed:
        lines.append(f"{stats.skipped} had been accepted before.")
    lines += [
        f"{count} made no pair: {code}. First: {stats.reasons[code]}"
        for code, count in stats.failed.most_common()
    ]
    lines += [
        f"{count} rows left out: {kind}. First: {stats.first_bad[kind]}"
        for kind, count in stats.bad.most_common()
    ]
    return lines
