"""`prefstream …`: the commands. Worker and trainer add theirs through entry points.

A command of another room is an entry point of the group `prefstream.commands`, so that the service
need not know who else is in the house.
"""

import importlib.metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from service import logs, tracing
from service.commands import jobs
from service.commands.console import fail, read_settings
from service.commands.replay import replay

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fresh preference pairs for multimodal alignment, made by the policy itself.",
)

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)]


@app.command()
def serve(host: Host = "127.0.0.1", port: Port = 8000) -> None:
    """Serve the HTTP API. Needs PREFSTREAM_REDIS_URL."""
    settings = read_settings()
    from service.api import Server, create_app

    logs.configure()
    tracing.configure("prefstream-service")
    Server(create_app(settings), host, port).run()


@app.command()
def up(
    model: Annotated[
        str, typer.Option(help="LLaVA checkpoint: a folder, a hub name, or `toy`.")
    ] = "toy",
    embedder: Annotated[
        str, typer.Option(help="A sentence-transformers model, or `embedded`.")
    ] = "embedded",
    host: Host = "127.0.0.1",
    port: Port = 8000,
    data: Annotated[
        Path, typer.Option(help="Folder for the embedded Valkey's data and all logs.")
    ] = Path(".prefstream"),
    train: Annotated[
        bool, typer.Option("--train", help="Also train on the pairs of the run `main`.")
    ] = False,
) -> None:
    """All in one: an embedded Valkey, the service and one worker. Ctrl-C stops all of it."""
    from service.commands.local_stack import House, HouseFell

    try:
        with House(
            model=model,
            embedder=embedder,
            host=host,
            port=port,
            data=data,
            train=["--run", "main"] if train else None,
        ) as house:
            house.wait()
    except HouseFell as error:
        fail(str(error))


app.add_typer(jobs.jobs, name="jobs")
app.add_typer(jobs.runs, name="runs")
app.command()(replay)


def _load(entry: importlib.metadata.EntryPoint) -> Any:
    """The command; where its room is not installed, one that says so."""
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        missing = str(error)

    def absent() -> None:
        room = entry.module.partition(".")[0]
        fail(
            f"`prefstream {entry.name}` is not installed ({missing}). It needs prefstream[{room}]."
        )

    absent.__doc__ = f"Not installed: {missing}."
    return absent


for _entry in sorted(importlib.metadata.entry_points(group="prefstream.commands")):
    _command = _load(_entry)
    if isinstance(_command, typer.Typer):
        app.add_typer(_command, name=_entry.name)
    else:
        app.command(_entry.name)(_command)
