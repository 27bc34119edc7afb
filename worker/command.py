"""`prefstream work`. Light to import: the engine comes with the call."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from service import logs, tracing
from service.checkpoints.chat_template import NoChatTemplate
from service.checkpoints.input_processor import UnusableCheckpoint
from service.commands.console import ChatTemplate, Namespace, fail, read_settings


def work(
    model: Annotated[
        str | None, typer.Option(help="Vision-language model: a folder, a hub name, or `toy`.")
    ] = None,
    embedder: Annotated[
        str | None, typer.Option(help="A sentence-transformers model, or `embedded`.")
    ] = None,
    chat_template: ChatTemplate = None,
    unproven: Annotated[
        bool | None,
        typer.Option(
            "--unproven",
            help="Take a model of a family that is not proven, after a check at start.",
        ),
    ] = None,
    slots: Annotated[int | None, typer.Option(help="Jobs at once, at most.", min=1)] = None,
    namespace: Namespace = None,
) -> None:
    """Run jobs on a vLLM engine. Needs PREFSTREAM_REDIS_URL.

    More settings: PREFSTREAM_WORKER_<NAME>, see worker/settings.py.
    """
    service_settings = read_settings(namespace)
    from worker.settings import WorkerSettings

    given = {
        "model": model,
        "embedder": embedder,
        "chat_template": chat_template,
        "unproven": unproven,
        "slots": slots,
    }
    try:
        settings = WorkerSettings(**{k: v for k, v in given.items() if v is not None})
    except ValidationError as error:
        fail(f"Bad worker settings: {error}")
    logs.configure()
    tracing.configure("prefstream-worker")
    if logs.is_interactive() or "VLLM_LOGGING_LEVEL" in os.environ:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    else:  # its processes log like this one
        os.environ.setdefault(
            "VLLM_LOGGING_CONFIG_PATH", str(Path(__file__).with_name("vllm_logging.json"))
        )
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        fail(
            f"The engine is not installed ({error}). Install prefstream[worker] on a GPU, or "
            "prefstream[worker-cpu] on a CPU."
        )
    from service.broker import ModelConflict, UnusableServer
    from worker.engine import NotEnoughMemory
    from worker.engine_keeper import EngineKeepsDying
    from worker.main import run_worker
    from worker.plugin.families import UnsupportedModel

    try:
        asyncio.run(run_worker(settings, service_settings, (signal.SIGINT, signal.SIGTERM)))
    except (
        UnsupportedModel,
        UnusableCheckpoint,
        NoChatTemplate,
        ModelConflict,
        NotEnoughMemory,
        UnusableServer,
        EngineKeepsDying,
    ) as error:
        fail(str(error))
