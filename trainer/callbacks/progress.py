"""A step's metrics: at the end of a progress bar on a terminal, a line of the log elsewhere."""

from typing import Any

import structlog
from transformers import (
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from service.logs import is_interactive

log = structlog.get_logger()

SHOWN = {
    "loss": "loss",
    "rewards/margins": "margin",
    "pairs/staleness": "staleness",
    "pairs/waited_s": "waited_s",
}
"""What of the metrics is shown, and as what. TensorBoard has them all."""


def progress_callback() -> TrainerCallback:
    return ProgressBarCallback() if is_interactive() else ProgressLogCallback()


class ProgressBarCallback(ProgressCallback):
    """At the end of a progress bar."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if self.training_bar is not None and logs is not None:
            self.training_bar.set_postfix(
                {short: f"{logs[name]:.3g}" for name, short in SHOWN.items() if name in logs}
            )


class ProgressLogCallback(TrainerCallback):
    """As a line of the log."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        metrics = {short: logs[name] for name, short in SHOWN.items() if logs and name in logs}
        if metrics:
            log.info("step", step=state.global_step, of=state.max_steps, **metrics)
