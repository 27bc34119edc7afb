"""The progress bar, with a step's figures at its end instead of a line each."""

from typing import Any

from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments

SHOWN = {
    "loss": "loss",
    "rewards/margins": "margin",
    "pairs/staleness": "staleness",
    "pairs/waited_s": "waited_s",
}
"""What of the figures is shown, and as what. TensorBoard has them all."""


class Bar(ProgressCallback):
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
