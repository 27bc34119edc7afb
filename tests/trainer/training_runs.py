"""Trainers in processes of their own, to be killed at a named point.

The processes are forked from one that has the heavy imports behind it.
"""

import json
import multiprocessing
import os
import pkgutil
import signal
import threading
from pathlib import Path
from typing import Any

from tests.servers import free_port
from trainer.settings import TrainerSettings

WAIT_S = 120


class Trials:
    def __init__(self) -> None:
        self._forks = multiprocessing.get_context("forkserver")
        self._forks.set_forkserver_preload(["trainer.train"])

    def run(
        self, settings: TrainerSettings, kill_at: str | None = None, processes: int = 1
    ) -> None:
        """Trains to the end, or until rank 0 kills itself at the named point."""
        port = free_port()
        children = [
            self._forks.Process(
                target=_train, args=(settings.model_dump(), kill_at, rank, processes, port)
            )
            for rank in range(processes)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join(WAIT_S)
            if kill_at:  # as a launcher does with the others, when one has died
                for other in children[1:]:
                    other.kill()
        assert children[0].exitcode == (-signal.SIGKILL if kill_at else 0)
        assert kill_at or all(child.exitcode == 0 for child in children)


def _train(fields: dict[str, Any], kill_at: str | None, rank: int, size: int, port: int) -> None:
    if size > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    import torch

    from trainer.train import train

    torch.set_num_threads(1)
    _note_inputs(Path(fields["output"]) / f"seen-{rank}.jsonl")
    if kill_at and rank == 0:
        _arm(*KILL_POINTS[kill_at])
    train(TrainerSettings(**fields), threading.Event())


# --- what a process saw --------------------------------------------------------------------------


def seen(settings: TrainerSettings, rank: int = 0) -> list[list[int]]:
    """The numbers of the rejected sides that each forward pass really got."""
    lines = (settings.output / f"seen-{rank}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def _note_inputs(path: Path) -> None:
    from trainer.methods.stream_trainer import StreamTrainer

    compute = StreamTrainer.training_step

    def training_step(self: Any, model: Any, inputs: Any, *rest: Any) -> Any:
        rejected = inputs["input_ids"].chunk(2)[1]
        texts = self.processing_class.batch_decode(rejected, skip_special_tokens=True)
        numbers = [int(text.rpartition("number ")[2].rstrip(".")) for text in texts]
        with path.open("a") as file:
            file.write(json.dumps(numbers) + "\n")
        return compute(self, model, inputs, *rest)

    StreamTrainer.training_step = training_step


# --- where a process is killed -------------------------------------------------------------------

KILL_POINTS: dict[str, tuple[str, str, int]] = {
    "before the first step is noted": ("trainer.stream.journal:Journal", "add", 1),
    "after a step, before its checkpoint": ("trainer.stream.journal:Journal", "add", 3),
    "in the middle of a checkpoint's files": (
        "trainer.methods.stream_trainer:StreamTrainer",
        "_save_rng_state",
        2,
    ),
    "before a checkpoint counts": ("trainer.weights.checkpoint", "commit", 2),
    "after a checkpoint, before it is acknowledged": (
        "trainer.stream.ledger:Ledger",
        "mark_saved",
        2,
    ),
    "after the last checkpoint, before it is acknowledged": (
        "trainer.stream.ledger:Ledger",
        "mark_saved",
        3,
    ),
    "in the middle of acknowledging": ("service.client:LeasedBatch", "ack", 2),
    "after acknowledging": ("trainer.weights.checkpoint", "keep_newest", 2),
}
"""Where a process dies: instead of which call of what, the how manyth time."""


def _arm(owner_name: str, name: str, times: int) -> None:
    owner = pkgutil.resolve_name(owner_name)
    original, calls = getattr(owner, name), 0

    def call(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == times:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **options)

    setattr(owner, name, call)
