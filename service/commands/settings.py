"""`prefstream settings`: what service, workers and clients of a namespace hold alike."""

from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from service.commands.console import DEFAULT_URL, Namespace, Url, connect, fail
from service.schemas import NamespaceSettings

app = typer.Typer(no_args_is_help=True, help="Look at a namespace's settings; change them.")

console = Console()


@app.command()
def show(url: Url = DEFAULT_URL, namespace: Namespace = None) -> None:
    """All settings in force, with what they mean."""
    with connect(url, namespace) as client:
        _print(client.settings())


@app.command("set")
def change(
    changes: Annotated[list[str], typer.Argument(metavar="NAME=VALUE…", help="Any of them.")],
    url: Url = DEFAULT_URL,
    namespace: Namespace = None,
) -> None:
    """Change settings, for all who use the namespace. What runs goes by them within seconds."""
    asked = read_changes(changes)
    with connect(url, namespace) as client:
        _print(client.change_settings(asked))


def read_changes(changes: list[str]) -> NamespaceSettings:
    """Of `NAME=VALUE`; or the end of the command, saying what is wrong with them."""
    values = {name: value for name, _, value in (change.partition("=") for change in changes)}
    try:
        return NamespaceSettings.model_validate(values)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        known = ", ".join(NamespaceSettings.model_fields)
        fail("\n".join(lines) + f"\nThe settings are {known}.")


def _print(settings: NamespaceSettings) -> None:
    table = Table("setting", "value", "default", "meaning")
    for name, field in NamespaceSettings.model_fields.items():
        value = getattr(settings, name)
        default = "" if value == field.default else str(field.default)
        table.add_row(name, str(value), default, " ".join((field.description or "").split()))
    console.print(table)
