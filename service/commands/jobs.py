"""`prefstream jobs …`: what waits, runs and ended; dead letters revived or deleted."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from service.commands.console import DEFAULT_URL, Namespace, Url, age, connect, fail
from service.schemas import Job, JobsState

app = typer.Typer(no_args_is_help=True, help="Look at jobs; end or revive them.")

console = Console()


@app.command("list")
def list_jobs(
    state: Annotated[str, typer.Argument(help="open, ended or dead.")] = "open",
    limit: Annotated[int, typer.Option(help="Jobs at most.", min=1, max=1000)] = 50,
    url: Url = DEFAULT_URL,
    namespace: Namespace = None,
) -> None:
    """Jobs, newest first; `dead` lists the dead letters with the reason."""
    states: dict[str, JobsState] = {"open": "open", "ended": "ended", "dead": "dead"}
    if state not in states:
        fail(f"{state!r} is none of: {', '.join(states)}.")
    with connect(url, namespace) as client:
        page = client.jobs(states[state], limit=limit)
    table = Table(Column("job", no_wrap=True), "kind", "status", "run", "attempts", "age", "error")
    for job in page.jobs:
        table.add_row(
            job.id,
            job.kind,
            job.status,
            job.run or "",
            str(job.attempt),
            age(job.created_at),
            f"{job.error.code}: {job.error.message}" if job.error else "",
        )
    console.print(table if page.jobs else f"No {state} jobs.")
    if page.before:
        console.print(f"More: --limit above {limit}.")


@app.command()
def show(job_id: str, url: Url = DEFAULT_URL, namespace: Namespace = None) -> None:
    """One job, with its result or the history of its failures, as JSON."""
    with connect(url, namespace) as client:
        _show(client.job(job_id))


@app.command()
def retry(job_id: str, url: Url = DEFAULT_URL, namespace: Namespace = None) -> None:
    """Put a dead letter back into the queue."""
    with connect(url, namespace) as client:
        _show(client.retry_dead_letter(job_id))


@app.command()
def cancel(job_id: str, url: Url = DEFAULT_URL, namespace: Namespace = None) -> None:
    """End a job: queued, at once; running, its engine requests are aborted."""
    with connect(url, namespace) as client:
        _show(client.cancel(job_id))


@app.command()
def purge(url: Url = DEFAULT_URL, namespace: Namespace = None) -> None:
    """Delete all dead letters."""
    with connect(url, namespace) as client:
        console.print(f"{client.purge_dead_letters()} dead letters deleted.")


def _show(job: Job) -> None:
    console.print_json(job.model_dump_json())
