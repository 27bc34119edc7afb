"""What the commands share: options, settings, a connection, progress, an end with a message."""

import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from service.addresses import without_password
from service.client import Client, PrefstreamError, ServiceUnreachable
from service.settings import NAMESPACE, MissingRedis, Settings

DEFAULT_URL = "http://127.0.0.1:8000"

REFUSED = 2
"""Status of a command that ends with a message: what it was given has to change."""

Url = Annotated[
    str, typer.Option("--url", envvar="PREFSTREAM_URL", help="The service, or its Redis.")
]


def _valid_namespace(namespace: str | None) -> str | None:
    if namespace is not None and not re.match(NAMESPACE, namespace):
        raise typer.BadParameter(f"{namespace!r} does not match {NAMESPACE}.")
    return namespace


Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        help="Prefix of all keys in Redis, one for each model; or set PREFSTREAM_NAMESPACE.",
        callback=_valid_namespace,
    ),
]
ChatTemplate = Annotated[
    str | None,
    typer.Option(
        "--chat-template",
        help="In place of the checkpoint's: a Jinja file, or the name of one that it has.",
    ),
]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)]


def read_settings(namespace: str | None = None, redis_url: str | None = None) -> Settings:
    """The settings, with a Redis address; or the end of the command, saying what to set.

    What is given stands in place of the environment's.
    """
    given = {"namespace": namespace, "redis_url": redis_url}
    try:
        settings = Settings.model_validate({k: v for k, v in given.items() if v is not None})
        _ = settings.redis_address
    except MissingRedis as error:
        fail(str(error))
    except ValidationError as error:
        lines = [
            f"PREFSTREAM_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()
        ]
        fail("Bad settings.\n" + "\n".join(lines))
    return settings


def fail(message: str) -> NoReturn:
    """Ends the command with the message, and `REFUSED` as its status."""
    typer.secho(message, fg="red", err=True)
    raise typer.Exit(REFUSED)


@contextmanager
def connect(url: str, namespace: str | None) -> Generator[Client]:
    """A client; what goes wrong while it is used ends the command, saying what."""
    check_namespace(url, namespace)
    key = os.environ.get("PREFSTREAM_API_KEY")
    try:
        with Client(url, api_key=key, namespace=namespace, retry_for_s=5) as client:
            yield client
    except (PrefstreamError, ValueError) as error:
        fail(client_error(url, error))


def check_namespace(url: str, namespace: str | None) -> None:
    """Ends the command where --namespace would have no effect."""
    if namespace is not None and url.startswith(("http://", "https://")):
        fail(
            f"--namespace {namespace} is for a Redis (--url redis://…). The service at "
            f"{without_password(url)} has the namespace that it was started with: leave "
            "--namespace out."
        )


def client_error(url: str, error: PrefstreamError | ValueError) -> str:
    """What the use of a client came to, for who runs a command."""
    if isinstance(error, ServiceUnreachable):
        return (
            f"Cannot reach {without_password(url)}: {error.problem.detail} Name the service with "
            "--url or PREFSTREAM_URL."
        )
    if isinstance(error, PrefstreamError):
        return str(error)
    return f"{without_password(url)}: {error}"


def progress_bars(console: Console) -> Progress:
    """Progress of long work: a line each, with how many are done of how many."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def age(since: datetime) -> str:
    """How long ago, in seconds or minutes, in words."""
    seconds = (datetime.now(UTC) - since).total_seconds()
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
