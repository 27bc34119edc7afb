"""What a trainer would train of a checkpoint, for `prefstream inspect`. No weights are read."""

import re
from typing import Any, get_args

from service.checkpoints.inspectors import Checkpoint, Judgement
from service.checkpoints.report import Finding, Training
from trainer.settings import Part, TrainerSettings

RANK = int(TrainerSettings.model_fields["lora_rank"].default)


def judge_training(checkpoint: Checkpoint) -> Judgement:
    """The sizes of an adapter at the default rank, and of the parts of full weights.

    Raises: ImportError, where what trains is not installed.
    """
    import trl  # noqa: F401  whoever cannot train should not say what would be

    from trainer.weights.adapter import UnservableWeights

    judged = Training(lora_rank=RANK, lora_layers=None, lora_parameters=None, full_parameters=None)
    model = checkpoint.model
    if model is None:
        return Judgement(judged)
    problems: list[Finding] = []
    try:
        judged.lora_layers, judged.lora_parameters = _adapter(model)
    except UnservableWeights as error:
        problems.append(Finding(code="no_adapter", message=str(error)))
    notes: list[Finding] = []
    try:
        judged.full_parameters = _parts(model)
    except UnservableWeights as error:
        notes.append(
            Finding(
                code="no_full_weights",
                message=f"`--train full` does not work: {error}",
                remedy="Train an adapter, which is the default.",
            )
        )
    return Judgement(judged, problems, notes)


def _adapter(model: Any) -> tuple[int, int]:
    """Layers that get an adapter, and the parameters of all of it."""
    from trainer.weights.adapter import lora_config

    config = lora_config(model, rank=RANK, alpha=2 * RANK)
    layers = [
        layer
        for name, layer in model.named_modules()
        if re.fullmatch(str(config.target_modules), name)
    ]
    return len(layers), sum(RANK * (layer.in_features + layer.out_features) for layer in layers)


def _parts(model: Any) -> dict[str, int]:
    from trainer.weights.full_weights import PARTS, set_trainable

    set_trainable(model, get_args(Part))  # raises, where a parameter is of no part
    return {
        part: sum(p.numel() for name, p in model.named_parameters() if names.match(name))
        for part, names in PARTS.items()
    }
