"""The losses, by TRL's names."""

from typing import Any

from trainer.settings import BETAS, Loss, TrainerSettings

LOSS_TYPES: dict[Loss, str] = {"dpo": "sigmoid", "ipo": "ipo", "slic": "hinge", "sft": "sft"}
"""TRL's names. Its IPO is per token, its SLiC a hinge at 1 on β · margin."""


def loss_arguments(settings: TrainerSettings) -> dict[str, Any]:
    """What TRL's `DPOConfig` is to know of the loss."""
    loss = LOSS_TYPES[settings.loss]
    nll = settings.nll_weight > 0
    return {
        "loss_type": [loss, "sft"] if nll else [loss],
        "loss_weights": [1.0, settings.nll_weight] if nll else None,
        "beta": settings.beta or BETAS["dpo"],  # of sft, it scales the logged rewards alone
    }
