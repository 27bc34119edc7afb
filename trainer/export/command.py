"""`prefstream export`: a run's pairs as other trainers take them. Light to import."""

import asyncio
import errno
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from service import logs
from service.client import AsyncClient, PrefstreamError
from service.commands.console import (
    DEFAULT_URL,
    Namespace,
    Url,
    check_namespace,
    client_error,
    fail,
    progress_bars,
)
from service.schemas import PairFilters
from trainer.export import FORMATS, Exporter, ExportError, ExportPlan, Record

console = Console(stderr=True, highlight=False)

SHOW_EVERY_S = 0.2


def export(
    run: Annotated[str, typer.Argument(help="The run.")],
    to: Annotated[str, typer.Option(help=f"One of {', '.join(FORMATS)}.")],
    out: Annotated[Path, typer.Option(help="Folder, new or of the same export.")],
    where: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="Leave out pairs beyond these: a run's `filters`."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on as pairs come.")] = False,
    license: Annotated[str | None, typer.Option(help="For the data card.")] = None,
    origin: Annotated[
        str | None, typer.Option(help="Where images and texts come from: for the data card.")
    ] = None,
    shard_rows: Annotated[int, typer.Option(help="Rows of a file, about.", min=1)] = 20_000,
    url: Url = DEFAULT_URL,
    namespace: Namespace = None,
) -> None:
    """Leave a run's pairs in a folder, as a trainer takes them. Ctrl-C stops; the same command goes
    on from there.

    Formats: docs/exports.md.
    """
    check_namespace(url, namespace)
    logs.configure()
    try:
        plan = ExportPlan(
            run=run,
            to=to,
            out=out,
            where=_filters(where),
            follow=follow,
            shard_rows=shard_rows,
            license=license,
            origin=origin,
        )
        record, stopped = asyncio.run(_export(plan, url, namespace))
    except ExportError as error:
        fail(str(error))
    except (PrefstreamError, ValueError) as error:
        fail(client_error(url, error))
    except OSError as error:
        fail(_of_disk(out, error))
    if record is not None:
        console.print(_summary(record))
    if stopped:
        console.print("Stopped. The same command goes on from here.")
        if not follow:
            raise typer.Exit(130)


def _filters(where: str | None) -> PairFilters:
    try:
        return PairFilters.model_validate_json(where or "{}")
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}".lstrip(": ") for e in error.errors()]
        fail(
            '--where takes JSON such as {"rejected_tokens": {"max": 512}} (docs/pairs.md).\n'
            + "\n".join(lines)
        )


async def _export(plan: ExportPlan, url: str, namespace: str | None) -> tuple[Record | None, bool]:
    """What is on disk, and whether it was stopped."""
    key = os.environ.get("PREFSTREAM_API_KEY")
    async with AsyncClient(url, api_key=key, namespace=namespace, retry_for_s=10) as client:
        exporter = Exporter(client, plan)
        loop = asyncio.get_running_loop()

        def stop(number: int) -> None:
            exporter.stop()
            loop.remove_signal_handler(number)  # a second one ends it on the spot

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)
        with progress_bars(console) as progress:
            showing = asyncio.create_task(_show(exporter, progress))
            try:
                return await exporter.export(), exporter.stopped
            finally:
                showing.cancel()
                with suppress(asyncio.CancelledError):
                    await showing


async def _show(exporter: Exporter, progress: Progress) -> None:
    bar = progress.add_task(f"{exporter.plan.run} → {exporter.plan.out}", total=None)
    try:
        while True:
            _update(exporter, progress, bar)
            await asyncio.sleep(SHOW_EVERY_S)
    finally:
        _update(exporter, progress, bar)


def _update(exporter: Exporter, progress: Progress, bar: TaskID) -> None:
    if exporter.run is not None:
        progress.update(bar, total=exporter.run.pairs - exporter.run.trimmed)
    progress.update(bar, completed=exporter.tally.read)


def _of_disk(out: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"The disk of {out} is full. What is whole stays there; make room, and the same "
            "command goes on."
        )
    reason = error.strerror or str(error)
    where = f" ({error.filename})" if error.filename else ""
    return f"Writing to {out} failed: {reason}{where}. The same command goes on from what is whole."


def _summary(record: Record) -> Table:
    tally = record.tally
    table = Table(title=f"Run {record.run} as {record.format}", show_header=False)
    table.add_row("Pairs read", str(tally.read))
    table.add_row("Pairs written", str(tally.written))
    table.add_row("Rows", str(tally.rows))
    for name, count in tally.filtered.items():
        table.add_row(f"Left out by --where: {name}", str(count))
    for reason, count in tally.left_out.items():
        table.add_row(f"Left out: {reason}", str(count))
    table.add_row("Files", str(len(record.shards)))
    table.add_row("MB", f"{sum(shard.size for shard in record.shards) / 1e6:.1f}")
    return table
