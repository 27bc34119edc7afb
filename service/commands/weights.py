"""`prefstream weights`: which versions are announced, served and refused; one withdrawn."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.commands.console import DEFAULT_URL, Namespace, Url, connect
from service.schemas import MAX_VERSION, Weights

app = typer.Typer(no_args_is_help=True, help="Look at versions of the weights; withdraw one.")

console = Console()


@app.command("list")
def list_versions(url: Url = DEFAULT_URL, namespace: Namespace = None) -> None:
    """The newest version, what each worker serves, and what was refused and withdrawn."""
    with connect(url, namespace) as client:
        show(client.weights())


@app.command()
def withdraw(
    version: Annotated[int, typer.Argument(help="Its number.", min=1, max=MAX_VERSION)],
    url: Url = DEFAULT_URL,
    namespace: Namespace = None,
) -> None:
    """Take a version back: no worker adopts it any more, and those that serve it go back to the
    newest that is left."""
    with connect(url, namespace) as client:
        weights = client.withdraw(version)
    console.print(f"Version {version} is withdrawn.")
    show(weights)


def show(weights: Weights) -> None:
    newest = weights.newest
    console.print(
        f"Newest: {newest.version} ({newest.kind}), at {newest.location}"
        if newest
        else "None is announced: workers serve the model that they were started with.",
        markup=False,
    )
    if weights.withdrawn:
        console.print(f"Withdrawn: {', '.join(map(str, weights.withdrawn))}")
    if weights.workers:
        table = Table("worker", "serves", "engine")
        for worker in weights.workers:
            engine = "ready" if worker.engine_ready else "down"
            table.add_row(worker.id, str(worker.weight_version), engine)
        console.print(table)
    for refusal in weights.refused:
        console.print(
            f"Worker {refusal.worker_id} refused version {refusal.version}: {refusal.reason}",
            markup=False,
        )
