"""`prefstream runs`: what became of each run's pairs; runs deleted, groups forgotten."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.commands.console import DEFAULT_URL, Namespace, Url, age, connect

app = typer.Typer(invoke_without_command=True, help="Look at runs; delete them.")

console = Console()


@app.callback()
def list_runs(context: typer.Context, url: Url = DEFAULT_URL, namespace: Namespace = None) -> None:
    """The runs, and what became of their pairs in each subscriber group."""
    if context.invoked_subcommand:
        return
    with connect(url, namespace) as client:
        found = client.runs()
    if not found:
        console.print("No runs.")
        return
    table = Table("run", "queued", "running", "dead", "oldest", "pairs", "outcomes")
    for run in found:
        table.add_row(
            run.name,
            str(run.open_jobs - run.running_jobs),
            str(run.running_jobs),
            str(run.dead_jobs),
            age(run.oldest_open_at) if run.oldest_open_at else "",
            str(run.pairs),
            ", ".join(f"{outcome} {count}" for outcome, count in run.outcomes.items()),
        )
    console.print(table)
    columns = ("waiting", "leased", "returned", "acknowledged", "stale", "missed")
    groups = Table("run", "group", *columns, "last seen")
    for run in found:
        for group in run.groups:
            gates = " (gates)" if group.name == run.settings.gating_group else ""
            seen = age(group.last_active_at) if group.last_active_at else ""
            counts = (str(getattr(group, column)) for column in columns)
            groups.add_row(run.name, group.name + gates, *counts, seen)
    if groups.row_count:
        console.print(groups)


@app.command()
def forget(name: str, group: str, url: Url = DEFAULT_URL, namespace: Namespace = None) -> None:
    """Forget a subscriber group that will not come back: the log is no longer kept for it."""
    with connect(url, namespace) as client:
        client.delete_group(name, group)
    console.print(f"Group {group} of run {name} forgotten.")


@app.command()
def delete(
    name: str,
    force: Annotated[
        bool, typer.Option("--force", help="Cancel its open jobs and end its leases.")
    ] = False,
    url: Url = DEFAULT_URL,
    namespace: Namespace = None,
) -> None:
    """Delete a run, with its log of pairs and its subscriber groups."""
    with connect(url, namespace) as client:
        client.delete_run(name, force=force)
    console.print(f"Run {name} deleted.")
