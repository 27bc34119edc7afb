"""What the commands share: settings read with care, progress, and an end with a message."""

from typing import NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from service.settings import MissingRedis, Settings


def read_settings() -> Settings:
    """The settings, with a Redis address; or the end of the command, saying what to set."""
    try:
        settings = Settings()
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
    """Ends the command with status 2 and the message."""
    typer.secho(message, fg="red", err=True)
    raise typer.Exit(2)


def progress_bars(console: Console) -> Progress:
    """Progress of long work: a line each, with how many are done of how many."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
