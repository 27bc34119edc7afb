"""What workers make of a checkpoint, for `prefstream inspect`. No engine is started or imported."""

from typing import Any

from service.checkpoints.inspectors import Checkpoint, Judgement
from service.checkpoints.report import Finding, Serving
from worker.plugin.families import PROVEN, RECURRENT

CPU_HEAD_SIZE = 32
"""vLLM's attention on a CPU takes multiples of it."""


def judge_serving(checkpoint: Checkpoint) -> Judgement:
    """Whether its family is proven, and on which layers adapters are served."""
    proven = checkpoint.architecture in PROVEN
    problems: list[Finding] = []
    if not proven:
        problems.append(
            Finding(
                code="family_unsupported",
                message=f"{checkpoint.architecture or 'A model without an architecture'} is not "
                "proven to leave image tokens out as its attention would, and workers refuse it.",
                remedy=f"Proven are {', '.join(PROVEN)}. With --unproven, workers try others, "
                "after a check at start.",
            )
        )
    head_size = _head_size(checkpoint.config)
    notes: list[Finding] = []
    if head_size is not None and head_size % CPU_HEAD_SIZE:
        notes.append(
            Finding(
                code="no_cpu_attention",
                message=f"Its head size, {head_size}, is no multiple of {CPU_HEAD_SIZE}: vLLM's "
                "attention on a CPU lacks it, so it can be served on a GPU only.",
            )
        )
    if checkpoint.architecture in RECURRENT:
        notes.append(
            Finding(
                code="recurrent",
                message="It has recurrent layers, whose state a token that is only hidden would "
                "still change. Hidden image tokens are absent from them, too: BDHS works, and is "
                "not quite attention masking.",
            )
        )
    return Judgement(
        Serving(proven=proven, lora_target_modules=_lora_targets(checkpoint), head_size=head_size),
        problems,
        notes,
    )


def _lora_targets(checkpoint: Checkpoint) -> list[str] | None:
    if checkpoint.model is None:
        return None
    from worker.model_shapes import model_shapes

    # Layers keep the last part of their names in the engine.
    return model_shapes(checkpoint.config, list).lora_target_modules


def _head_size(config: Any) -> int | None:
    if config is None:
        return None
    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", None)
    size = getattr(text, "head_dim", None)
    return size or (text.hidden_size // heads if heads else None)
