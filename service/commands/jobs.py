"""`prefstream jobs …` and `prefstream runs …`: looking after a service, over its API."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.table import Column, Table

from service.client import Client, ProblemError
from service.commands.console import fail
from service.schemas import Job, JobsState

jobs = typer.Typer(no_args_is_help=True, help="Look at jobs; end or revive them.")
runs = typer.Typer(invoke_without_command=True, help="Look at runs; delete them.")

Url = Annotated[
    str, typer.Option("--url", envvar="PREFSTREAM_URL", help="The service, or its Redis.")
]
SERVICE = "http://127.0.0.1:8000"

console = Console()


@jobs.command("list")
def list_jobs(
    state: Annotated[str, typer.Argument(help="open, ended or dead.")] = "open",
    limit: Annotated[int, typer.Option(help="Jobs at most.", min=1, max=1000)] = 50,
    url: Url = SERVICE,
) -> None:
    """Jobs, newest first; `dead` lists the dead letters with the reason."""
    states: dict[str, JobsState] = {"open": "open", "ended": "ended", "dead": "dead"}
    if state not in states:
        fail(f"{state!r} is none of: {', '.join(states)}.")
    with connect(url) as client:
        page = client.jobs(states[state], limit=limit)
    table = Table(Column("job", no_wrap=True), "kind", "status", "run", "attempts", "age", "error")
    for job in page.jobs:
        table.add_row(
            job.id,
            job.kind,
            job.status,
            job.run or "",
            str(job.attempt),
            _age(job.created_at),
            f"{job.error.code}: {job.error.message}" if job.error else "",
        )
    console.print(table if page.jobs else f"No {state} jobs.")
    if page.before:
        console.print(f"More: --limit above {limit}.")


@jobs.command()
def show(job_id: str, url: Url = SERVICE) -> None:
    """One job, with its result or the history of its failures, as JSON."""
    with connect(url) as client:
        _show(client.job(job_id))


@jobs.command()
def retry(job_id: str, url: Url = SERVICE) -> None:
    """Put a dead letter back into the queue."""
    with connect(url) as client:
        _show(client.retry(job_id))


@jobs.command()
def cancel(job_id: str, url: Url = SERVICE) -> None:
    """End a job: queued, at once; running, its engine requests are aborted."""
    with connect(url) as client:
        _show(client.cancel(job_id))


@jobs.command()
def purge(url: Url = SERVICE) -> None:
    """Delete all dead letters."""
    with connect(url) as client:
        console.print(f"{client.purge()} dead letters deleted.")


@runs.callback()
def list_runs(context: typer.Context, url: Url = SERVICE) -> None:
    """The runs, and what became of their pairs in each subscriber group."""
    if context.invoked_subcommand:
        return
    with connect(url) as client:
        found = client.runs()
    if not found:
        console.print("No runs.")
        return
    table = Table("run", "queued", "running", "dead", "oldest", "pairs")
    for run in found:
        table.add_row(
            run.name,
            str(run.open_jobs - run.running_jobs),
            str(run.running_jobs),
            str(run.dead_jobs),
            _age(run.oldest_open_at) if run.oldest_open_at else "",
            str(run.pairs),
        )
    console.print(table)
    columns = ("waiting", "leased", "returned", "acknowledged", "stale", "missed")
    groups = Table("run", "group", *columns)
    for run in found:
        for group in run.groups:
            groups.add_row(run.name, group.name, *(str(getattr(group, c)) for c in columns))
    if groups.row_count:
        console.print(groups)


@runs.command()
def delete(
    name: str,
    force: Annotated[
        bool, typer.Option("--force", help="Cancel its open jobs and end its leases.")
    ] = False,
    url: Url = SERVICE,
) -> None:
    """Delete a run, with its log of pairs and its subscriber groups."""
    with connect(url) as client:
        client.delete_run(name, force=force)
    console.print(f"Run {name} deleted.")


@contextmanager
def connect(url: str) -> Generator[Client]:
    try:
        with Client(url, api_key=os.environ.get("PREFSTREAM_API_KEY"), patience_s=5) as client:
            yield client
    except ProblemError as error:
        fail(str(error))
    except (httpx.TransportError, ValueError) as error:
        fail(f"Cannot reach {url}: {error}. Name the service with --url or PREFSTREAM_URL.")


def _show(job: Job) -> None:
    console.print_json(job.model_dump_json())


def _age(since: datetime) -> str:
    seconds = (datetime.now(UTC) - since).total_seconds()
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
