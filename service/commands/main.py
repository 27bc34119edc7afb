"""`prefstream …`: the commands. Worker and trainer add theirs through entry points.

A command of another package is an entry point of the group `prefstream.commands`, so that the
service need not know who else is installed.
"""

import importlib.metadata
from typing import Any

import typer

from service.commands import jobs, runs, settings, weights
from service.commands.console import fail
from service.commands.inspect import inspect
from service.commands.replay import replay
from service.commands.serve import serve
from service.commands.up import up

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fresh preference pairs for multimodal alignment, made by the policy itself.",
)
app.command()(serve)
app.command()(up)
app.add_typer(jobs.app, name="jobs")
app.add_typer(runs.app, name="runs")
app.add_typer(weights.app, name="weights")
app.add_typer(settings.app, name="settings")
app.command()(replay)
app.command()(inspect)


def _load(entry: importlib.metadata.EntryPoint) -> Any:
    """The command; where its package is not installed, one that says so."""
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        missing = str(error)

    def absent() -> None:
        package = entry.module.partition(".")[0]
        fail(
            f"`prefstream {entry.name}` is not installed ({missing}). "
            f"It needs prefstream[{package}]."
        )

    absent.__doc__ = f"Not installed: {missing}."
    return absent


for _entry in sorted(importlib.metadata.entry_points(group="prefstream.commands")):
    _command = _load(_entry)
    if isinstance(_command, typer.Typer):
        app.add_typer(_command, name=_entry.name)
    else:
        app.command(_entry.name)(_command)
