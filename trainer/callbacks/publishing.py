"""New versions of the policy's weights, every so many steps."""

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer.main_process import MainProcess
from trainer.methods.build import weights_dtype
from trainer.methods.stream_trainer import StreamTrainer
from trainer.settings import TrainerSettings
from trainer.waiting import Stopped
from trainer.weights.publish import PUBLISHING_PREFIX

log = structlog.get_logger()


class PublishCallback(TrainerCallback):
    """Publishes the weights for the workers. Of all processes: weights may be sharded."""

    def __init__(
        self, settings: TrainerSettings, trainer: StreamTrainer, main: MainProcess | None
    ) -> None:
        """`main`: in rank 0."""
        self._settings = settings
        self._trainer = trainer
        self._main = main

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """A new line of checkpoints first replaces what another left on the workers: pairs are to
        come from the policy that it starts from."""
        if state.global_step > 0:
            self._trainer.sampling_version = None
        every = self._settings.publish_every
        if every and state.global_step == 0 and self._replaces_weights():
            self._publish(0)

    def _replaces_weights(self) -> bool:
        """Whether workers serve, or are about to, what was published before. In all processes."""
        replaces = [False]
        if self._main:
            with suppress(Stopped):
                replaces = [self._main.publisher.replaces_weights()]
        if self._trainer.accelerator.num_processes > 1:
            broadcast_object_list(replaces)
        return replaces[0]

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        every = self._settings.publish_every
        if every and (state.global_step % every == 0 or state.global_step == state.max_steps):
            self._publish(state.global_step)

    def _publish(self, step: int) -> None:
        with tempfile.TemporaryDirectory(
            prefix=PUBLISHING_PREFIX, dir=self._settings.output
        ) as folder:
            if self._settings.train == "full":
                self._trainer.save_full_weights(Path(folder), weights_dtype(self._settings))
            else:
                self._trainer.save_model(folder)
            if self._main:
                try:
                    self._main.publisher.publish(Path(folder), step, self._settings.train)
                except Stopped:
                    log.warning("not published: the trainer was asked to stop", step=step)
        version = [self._main.publisher.version if self._main else 0]
        if self._trainer.accelerator.num_processes > 1:
            broadcast_object_list(version)
        self._trainer.sampling_version = version[0], step
