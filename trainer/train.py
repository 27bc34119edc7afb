"""Training on the live stream: TRL's DPOTrainer, with our stream, ledger and publisher around it.

`train` reads from top to bottom as what happens. One process or several (accelerate): all run it,
and rank 0 alone talks to the service, keeps the ledger and writes what is not the trainer's own
(trainer/main_process.py).
"""

import threading
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import structlog
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import ProgressCallback

from service.checkpoints.input_processor import load_input_processor
from trainer.callbacks.checkpointing import CheckpointCallback
from trainer.callbacks.metrics import MetricsCallback
from trainer.callbacks.progress import progress_callback
from trainer.callbacks.publishing import PublishCallback
from trainer.main_process import open_main_process
from trainer.methods.build import build_trainer
from trainer.settings import InvalidSettings, TrainerSettings
from trainer.stream import journal
from trainer.stream.data_loader import PairDataLoader
from trainer.weights import checkpoint
from trainer.weights.checkpoint import CheckpointRecord

log = structlog.get_logger()


@dataclass(frozen=True)
class TrainingResult:
    """How a training run ended."""

    step: int
    """Optimizer steps, those before a resume included."""
    version: int
    """Newest weight version that was published; 0: none."""
    finished: bool
    """All steps were taken; otherwise it was asked to stop."""


def train(settings: TrainerSettings, stop: threading.Event) -> TrainingResult:
    """Trains until `settings.steps`, or until `stop` is set: then it saves, acknowledges, leaves.
    In the end `stop` is set in any case.

    Resumes from the newest complete checkpoint in `settings.output`, if there is one.

    Raises: InvalidSettings, UnservableWeights, UnusableCheckpoint, NoChatTemplate; and whatever is
    no matter of waiting.
    """
    state = PartialState(cpu=not torch.cuda.is_available())
    resumed = _checkpoint_to_resume(settings, state)
    record = CheckpointRecord.read(resumed) if resumed else None
    _check(settings, state, record)
    start = record.step if record else 0
    if state.is_main_process:
        if record:
            log.info("resuming", checkpoint=str(resumed), step=start, pairs=record.pairs)
        else:
            log.info("starting anew", model=settings.model, output=str(settings.output))
    version = record.version if record else 0
    inputs = load_input_processor(settings.model, settings)
    in_main_process = open_main_process(settings, record, stop, inputs)
    with in_main_process if state.is_main_process else nullcontext() as main:
        if start >= settings.steps:
            log.info("nothing to do: all steps were taken", steps=settings.steps)
            return TrainingResult(start, version, True)
        data_loader = PairDataLoader(
            main.rows if main else None,
            steps=settings.steps - start,
            batch_size=settings.batch_size,
            device_batch_size=_device_batch_size(settings, state),
            read_ahead=settings.read_ahead,
            rank=state.process_index,
            processes=state.num_processes,
        )
        trainer = build_trainer(settings, data_loader, inputs, state.num_processes, resumed)
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(progress_callback())
        trainer.add_callback(MetricsCallback())
        # In this order: a step's pairs are noted before what was learnt from them is published.
        trainer.add_callback(CheckpointCallback(settings, trainer, data_loader, main))
        trainer.add_callback(PublishCallback(settings, trainer, main))
        data_loader.start(trainer.data_collator)
        try:
            trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        finally:
            stop.set()
            if main:
                data_loader.join()  # so that all it leased is known when the rest is handed back
        step = trainer.state.global_step
        version = main.publisher.version if main else version
    state.wait_for_everyone()
    state.destroy_process_group()
    if state.is_main_process:
        done = "finished" if step >= settings.steps else "stopped; the same command resumes"
        log.info(done, step=step, of=settings.steps, version=version)
    return TrainingResult(step, version, step >= settings.steps)


def _checkpoint_to_resume(settings: TrainerSettings, state: PartialState) -> Path | None:
    """The checkpoint to go on from: rank 0 looks, and tells the others."""
    if (
        checkpoint.has_checkpoints(settings.output)
        and not (settings.output / journal.NAME).is_file()
    ):
        raise InvalidSettings(
            f"{settings.output} holds checkpoints that are not this trainer's: there is no "
            f"{journal.NAME} beside them. Give it an `output` of its own."
        )
    found = [checkpoint.newest(settings.output) if state.is_main_process else None]
    if state.num_processes > 1:
        broadcast_object_list(found)
    return found[0]


def _check(settings: TrainerSettings, state: PartialState, record: CheckpointRecord | None) -> None:
    if settings.batch_size % state.num_processes:
        raise InvalidSettings(
            f"`batch_size` is {settings.batch_size}, which {state.num_processes} processes cannot "
            "share evenly."
        )
    if record and (record.run, record.group) != (settings.run, settings.group):
        raise InvalidSettings(
            f"The checkpoints in {settings.output} are of run {record.run!r}, group "
            f"{record.group!r}; these settings are of run {settings.run!r}, group "
            f"{settings.group!r}. Give each its own `output`."
        )
    if record and record.train != settings.train:
        raise InvalidSettings(
            f"The checkpoints in {settings.output} are of `train = {record.train!r}`; these "
            f"settings say {settings.train!r}. Give each its own `output`."
        )


def _device_batch_size(settings: TrainerSettings, state: PartialState) -> int:
    """Pairs of one pass: a divisor of a process's shard, so that all passes weigh the same."""
    shard = settings.batch_size // state.num_processes
    most = min(shard, settings.device_batch_size)
    return next(size for size in range(most, 0, -1) if shard % size == 0)
