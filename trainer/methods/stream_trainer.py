"""TRL's DPOTrainer on a stream of pairs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from datasets import IterableDataset
from peft import PeftModel
from PIL import Image
from torch import nn
from trl.trainer.dpo_trainer import DPOTrainer

from trainer.methods.collator import ROW_WEIGHT, SAMPLING_LOGPS, SAMPLING_VERSIONS
from trainer.stream.data_loader import PairDataLoader
from trainer.weights import full_weights


class StreamTrainer(DPOTrainer):
    """TRL's, with the stream in place of a data loader, and a weight for each row.

    TRL's loss is the mean over a pass, so the rows of a pass share their weight.
    """

    def __init__(
        self,
        data_loader: PairDataLoader,
        projector_learning_rate: float | None = None,
        **arguments: Any,
    ) -> None:
        self._data_loader = data_loader
        self._projector_learning_rate = projector_learning_rate
        self.sampling_version: tuple[int, int] | None = (0, 0)
        """The version of the weights that workers were given last, and the step after which they
        were those that are trained; None: not known."""
        super().__init__(train_dataset=_placeholder(), **arguments)

    def get_train_dataloader(self) -> Any:
        return self._data_loader

    def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
        weight = inputs.pop(ROW_WEIGHT)
        sampled = inputs.pop(SAMPLING_LOGPS, None), inputs.pop(SAMPLING_VERSIONS, None)
        logps: list[torch.Tensor] = []

        def forward(**arguments: Any) -> Any:
            outputs = model(**arguments)
            logps.append(outputs.log_probs.detach())
            return outputs

        # TRL hands its outputs to nobody, and makes others where it is asked for them.
        loss = super()._compute_loss(forward, inputs, return_outputs=False)
        self._log_sampling_difference(logps[0], *sampled)
        return loss * weight

    def _log_sampling_difference(
        self, logps: torch.Tensor, sampled: torch.Tensor | None, versions: torch.Tensor | None
    ) -> None:
        """How far this model's log-probabilities of sampled tokens are from the engine's, where
        both have the same weights: those of the sides that the current version sampled."""
        worst = total = count = logps.new_zeros((), dtype=torch.float32)
        if sampled is not None and versions is not None and self.sampling_version is not None:
            version, step = self.sampling_version
            if step == self.state.global_step:
                ours = logps[:, -sampled.shape[1] :].float()
                there = (versions == version)[:, None] & ~sampled.isnan()
                differences = (ours - sampled).abs()[there]
                count, total = count + there.sum(), differences.sum()
                worst = differences.max() if len(differences) else worst
        gathered = self.accelerator.gather(torch.stack([worst, total, count]))
        figures = cast(torch.Tensor, gathered).view(-1, 3)
        if (tokens := figures[:, 2].sum()) > 0:
            metrics = self._metrics["train"]
            name = "sampling/sampling_logp_difference"
            metrics[f"{name}/mean"].append((figures[:, 1].sum() / tokens).item())
            metrics[f"{name}/max"].append(figures[:, 0].max().item())

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(model)
        if self._projector_learning_rate is not None:
            policy = cast(nn.Module, model or self.model)
            full_weights.split_learning_rate(optimizer, policy, self._projector_learning_rate)
        return optimizer

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # transformers 5 saves full weights under other names than it loads them by here, and would
        # go on from the model's first weights without an error. `build_trainer` has loaded them.
        if isinstance(self.model, PeftModel) or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def save_full_weights(self, folder: Path, dtype: torch.dtype) -> None:
        """Writes all weights as workers take them. By all processes: weights may be sharded."""
        weights: Any = self.accelerator.get_state_dict(self.model_wrapped)
        if self.args.should_save:
            policy = self.accelerator.unwrap_model(self.model_wrapped)
            full_weights.save_full_weights(policy, self.processing_class, weights, folder, dtype)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log({**logs, **self._data_loader.metrics()} if "loss" in logs else logs, start_time)


def _placeholder() -> IterableDataset:
    """A data set of one row that is never trained on, to be looked at."""
    row = {
        "prompt": [{"role": "user", "content": [{"type": "image"}]}],
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "?"}]}],
        "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "!"}]}],
        "images": [Image.new("RGB", (8, 8))],
    }

    def rows() -> Iterator[dict[str, Any]]:
        yield row

    return IterableDataset.from_generator(rows)
