"""Full weights: which parts of the model learn, and how they are written for the workers.

An adapter carries the language model alone (`trainer/weights/adapter.py`); a run that trains the
projector or the vision tower publishes all weights, as a checkpoint of its own.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import nn

from service.checkpoints.tensor_names import published_name
from trainer.settings import Part
from trainer.weights.adapter import UnservableWeights

SHARD_BYTES = 5 * 10**7
"""Of a file of weights, at most. Several are copied and checked at once."""

PARTS: dict[Part, re.Pattern[str]] = {
    "language_model": re.compile(r"(model\.language_model|lm_head)\."),
    "projector": re.compile(r"model\.(multi_modal_projector\.|image_newline$)"),
    "tower": re.compile(r"model\.vision_tower\."),
}
"""How the names of each part's parameters begin, in transformers 5."""


def set_trainable(model: nn.Module, parts: Collection[Part]) -> None:
    """Lets these parts learn and freezes the others. Raises: UnservableWeights."""
    found: set[str] = set()
    for name, parameter in model.named_parameters():
        mine = {part for part, names in PARTS.items() if names.match(name)}
        if not mine:
            raise UnservableWeights(
                f"{name} of {type(model).__name__} is of none of {', '.join(PARTS)}."
            )
        found |= mine
        parameter.requires_grad = not mine.isdisjoint(parts)
    if missing := set(parts) - found:
        raise UnservableWeights(
            f"{type(model).__name__} has no {' and no '.join(sorted(missing))}."
        )


def split_learning_rate(optimizer: torch.optim.Optimizer, model: nn.Module, rate: float) -> None:
    """Gives the projector a learning rate of its own, before a scheduler is made."""
    projector = {
        id(weights) for name, weights in model.named_parameters() if PARTS["projector"].match(name)
    }
    for group in list(optimizer.param_groups):
        theirs = [weights for weights in group["params"] if id(weights) in projector]
        if theirs:
            group["params"] = [w for w in group["params"] if id(w) not in projector]
            optimizer.add_param_group({**group, "params": theirs, "lr": rate})


def save_full_weights(
    model: Any,
    processor: Any,
    weights: Mapping[str, torch.Tensor],
    folder: Path,
    dtype: torch.dtype,
) -> None:
    """Writes a whole checkpoint that workers, transformers and plain vLLM load.

    `weights`: the whole model's, by transformers' names; `dtype`: what they are written as.
    """
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    save_torch_state_dict(
        {
            published_name(name): tensor.detach().to(dtype)
            for name, tensor in weights.items()
            if name not in tied
        },
        folder,
        max_shard_size=SHARD_BYTES,
        metadata={"format": "pt"},
    )
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    processor.save_pretrained(folder)
