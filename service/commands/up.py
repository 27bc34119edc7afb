"""`prefstream up`: all of it on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from service.commands.console import ChatTemplate, Host, Port, fail
from service.commands.local_stack import LocalStack, LocalStackError


def up(
    model: Annotated[
        str, typer.Option(help="Vision-language model: a folder, a hub name, or `toy`.")
    ] = "toy",
    embedder: Annotated[
        str, typer.Option(help="A sentence-transformers model, or `embedded`.")
    ] = "embedded",
    chat_template: ChatTemplate = None,
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
    try:
        with LocalStack(
            model=model,
            embedder=embedder,
            chat_template=chat_template,
            host=host,
            port=port,
            data=data,
            train=["--run", "main"] if train else None,
        ) as stack:
            stack.wait()
    except LocalStackError as error:
        fail(str(error))
