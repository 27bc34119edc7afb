"""How far a policy prefers the chosen side, against its reference model."""

from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel

from trainer.methods.collator import ROW_WEIGHT
from trainer.stream.rows import Row

Collate = Callable[[list[Row]], Any]


@torch.no_grad()
def margin(model: PeftModel, collate: Collate, rows: list[Row], *, batch_size: int = 8) -> float:
    """Mean over pairs of log(πθ/π_ref)(y⁺|x) − log(πθ/π_ref)(y⁻|x), in nats; DPO's margin over β.

    0 before training. π_ref is the model under a disabled adapter; of `rows`, `collate` (a
    `RowCollator`) makes chosen sides, then rejected sides.
    """
    training = model.training
    model.eval()
    total = 0.0
    for start in range(0, len(rows), batch_size):
        inputs = collate(rows[start : start + batch_size])
        policy = _log_probs(model, inputs)
        with model.disable_adapter():
            reference = _log_probs(model, inputs)
        chosen, rejected = (policy - reference).chunk(2)
        total += float((chosen - rejected).sum())
    model.train(training)
    return total / len(rows)


def _log_probs(model: PeftModel, inputs: Any) -> torch.Tensor:
    """Log-probability of each side's completion, shape (2 · pairs,)."""
    inputs = {k: v.to(model.device) for k, v in inputs.items() if k != ROW_WEIGHT}
    completion = inputs.pop("completion_mask")[:, 1:]
    logits = model(**inputs, use_cache=False).logits[:, :-1].float()
    tokens = inputs["input_ids"][:, 1:, None]
    each = logits.gather(-1, tokens)[..., 0] - logits.logsumexp(-1)
    return (each * completion).sum(1)
