"""`prefstream inspect`: what prefstream makes of a checkpoint, without an engine."""

import json
import os
from typing import Annotated, Any, cast

import typer
from rich.console import Console

from service.checkpoints.inspection import NoCheckpoint, inspect_checkpoint
from service.checkpoints.settings import InputSettings
from service.commands.checkpoint_view import checkpoint_view
from service.commands.console import fail

console = Console(highlight=False)


def inspect(
    model: Annotated[str, typer.Argument(help="A folder, a hub name, or `toy`.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="The whole report, for programs.")
    ] = False,
    chat_template: Annotated[
        str | None,
        typer.Option(
            envvar="PREFSTREAM_WORKER_CHAT_TEMPLATE",
            help="A file with a template, or the name of one of several that the checkpoint has.",
        ),
    ] = None,
    chat_template_kwargs: Annotated[
        str,
        typer.Option(
            envvar="PREFSTREAM_WORKER_CHAT_TEMPLATE_KWARGS",
            help="Variables of the template, as JSON.",
        ),
    ] = "{}",
    mm_processor_kwargs: Annotated[
        str,
        typer.Option(
            envvar="PREFSTREAM_WORKER_MM_PROCESSOR_KWARGS",
            help="Arguments of the processor of pictures, as JSON.",
        ),
    ] = "{}",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the checkpoint's own Python code.")
    ] = False,
) -> None:
    """Say what prefstream makes of a checkpoint: template, tokens, what is served and trained.

    Reads no weights and starts no engine. Exit status 1: something is wrong; 2: there is no such
    checkpoint.
    """
    settings = InputSettings(
        chat_template=chat_template,
        chat_template_kwargs=_object("--chat-template-kwargs", chat_template_kwargs),
        mm_processor_kwargs=_object("--mm-processor-kwargs", mm_processor_kwargs),
    )
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # the report says it better
    try:
        report = inspect_checkpoint(model, settings, trust_remote_code=trust_remote_code)
    except NoCheckpoint as error:
        fail(str(error))
    except ImportError as error:
        fail(
            f"A checkpoint cannot be read here ({error}). Install prefstream[worker], "
            "prefstream[worker-cpu] or prefstream[trainer]."
        )
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        console.print(checkpoint_view(report))
    if report.problems:
        raise typer.Exit(1)


def _object(option: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        fail(f"{option} is no JSON ({error}): {text}")
    if not isinstance(value, dict):
        fail(f'{option} is no JSON object, such as {{"max_pixels": 501760}}: {text}')
    return cast(dict[str, Any], value)
