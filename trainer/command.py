"""`prefstream train`. Light to import: torch comes with the call."""

import os
import signal
import threading
import tomllib
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from pydantic import ValidationError

from service import logs
from service.checkpoints.chat_template import NoChatTemplate
from service.checkpoints.input_processor import UnusableCheckpoint
from service.client import PrefstreamError
from service.commands.console import ChatTemplate, Namespace, check_namespace, fail
from trainer.settings import InvalidSettings, read_settings


def train(
    url: Annotated[
        str | None, typer.Option(help="The service, or in the cluster its Redis (redis://…).")
    ] = None,
    run: Annotated[str | None, typer.Option(help="The run to train on.")] = None,
    model: Annotated[
        str | None, typer.Option(help="The policy: a folder, a hub name, or `toy`.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of checkpoints; it resumes from what is there.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="The weight store: a folder or fsspec URL workers read.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="online, offline, mixed or averaged: where pairs come from.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="The data set of pairs for offline and mixed.")
    ] = None,
    loss: Annotated[str | None, typer.Option(help="dpo, ipo, slic or sft.")] = None,
    train: Annotated[
        str | None, typer.Option(help="`lora`: an adapter, or `full`: the weights themselves.")
    ] = None,
    namespace: Namespace = None,
    chat_template: ChatTemplate = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps in all.", min=1)] = None,
    config: Annotated[
        Path | None, typer.Option(help="A TOML file with any of trainer/settings.py.")
    ] = None,
) -> None:
    """Train on a run's pairs as they come, and publish what is learnt. Ctrl-C saves and leaves.

    More settings: PREFSTREAM_TRAINER_<NAME> or --config, see docs/training.md.
    """
    given = {
        "url": url,
        "run": run,
        "model": model,
        "output": output,
        "weights": weights,
        "method": method,
        "data": data,
        "loss": loss,
        "train": train,
        "namespace": namespace,
        "chat_template": chat_template,
        "steps": steps,
    }
    try:
        settings = read_settings(config, given)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        fail("Bad trainer settings.\n" + "\n".join(lines))
    except (OSError, tomllib.TOMLDecodeError) as error:
        fail(f"Cannot read {config}: {error}")
    check_namespace(settings.url, namespace)
    logs.configure()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from trainer.train import train as run_training
        from trainer.weights.adapter import UnservableWeights
    except ImportError as error:
        fail(f"The trainer is not installed ({error}). Install prefstream[trainer].")
    try:
        run_training(settings, _stop_on_signals())
    except (
        InvalidSettings,
        NoChatTemplate,
        PrefstreamError,
        UnservableWeights,
        UnusableCheckpoint,
    ) as error:
        fail(str(error))


def _stop_on_signals() -> threading.Event:
    """Set by the first Ctrl-C or SIGTERM; the second ends the process as usual."""
    stop = threading.Event()

    def ask(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.default_int_handler)
        typer.echo(
            "Stopping after this step: saving, acknowledging. Again to stop at once.", err=True
        )
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    return stop
