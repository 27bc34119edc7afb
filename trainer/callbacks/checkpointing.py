"""Checkpoints, with the ledger and the journal in step with them; and the end of the stream."""

from typing import Any

import structlog
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer.main_process import MainProcess
from trainer.methods.stream_trainer import StreamTrainer
from trainer.settings import TrainerSettings
from trainer.stream.data_loader import PairDataLoader
from trainer.weights import checkpoint
from trainer.weights.checkpoint import CheckpointRecord

log = structlog.get_logger()


class CheckpointCallback(TrainerCallback):
    """Notes the pairs of each step, and acknowledges them when a checkpoint has them."""

    def __init__(
        self,
        settings: TrainerSettings,
        trainer: StreamTrainer,
        data_loader: PairDataLoader,
        main: MainProcess | None,
    ) -> None:
        """`main`: in rank 0."""
        self._settings = settings
        self._trainer = trainer
        self._data_loader = data_loader
        self._main = main
        self._saved = 0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        step = self._data_loader.current
        assert step is not None  # it was just computed
        if self._main:
            self._main.ledger.mark_used(step.pair_ids)
            self._main.journal.add(state.global_step, step.pair_ids)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """All files of the checkpoint are written; here it begins to count."""
        self._trainer.accelerator.wait_for_everyone()  # each process writes some
        self._saved = state.global_step
        if not self._main:
            return
        ledger = self._main.ledger
        unacknowledged = ledger.unacknowledged()
        record = CheckpointRecord(
            step=state.global_step,
            run=self._settings.run,
            group=self._settings.group,
            train=self._settings.train,
            pairs=self._main.journal.pairs,
            unacknowledged=unacknowledged,
            leases=ledger.complete(unacknowledged),
            version=self._main.publisher.version,
        )
        folder = self._settings.output / f"checkpoint-{state.global_step}"
        checkpoint.commit(folder, record)
        ledger.mark_saved(unacknowledged)
        acknowledged = ledger.acknowledge()
        log.info("checkpoint", step=state.global_step, acknowledged=acknowledged)
        checkpoint.keep_newest(self._settings.output, self._settings.keep_checkpoints)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """transformers' word for: the stream ended."""
        control.should_training_stop = True
        current = self._data_loader.current
        control.should_save = current is not None and state.global_step > self._saved
