"""The LoRA adapter: on the language model's linear layers, because workers serve nothing else.

vLLM ignores adapters of LLaVA-NeXT's vision tower and projector without a word; a trainer that had
one would go on from a policy that no worker ever runs. So it is refused before the first step.
"""

import re

from peft import LoraConfig
from torch import nn

LANGUAGE_MODEL = re.compile(r"(.*\.)?language_model\.(?!lm_head)")
"""How names of the language model's modules begin in transformers' multimodal models."""

SHOWN = 4


class UnservableWeights(ValueError):
    """Workers could not run what would be trained."""


def lora_config(
    model: nn.Module, *, rank: int, alpha: int, target_modules: str | None = None
) -> LoraConfig:
    """An adapter of all linear layers of the language model, or of those that the regular
    expression names. Raises: UnservableWeights."""
    pattern = target_modules or all_linear(model)
    targets = [name for name, _ in model.named_modules() if re.fullmatch(pattern, name)]
    if not targets:
        raise UnservableWeights(
            f"`target_modules` {pattern!r} matches no module. It is compared with full names, such "
            f"as {next(iter(_linear(model)), '')!r}."
        )
    wrong = sorted(set(targets) - set(_linear(model)))
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise UnservableWeights(
            f"This would train {', '.join(wrong[:SHOWN])}{more}, but workers serve adapters of the "
            "language model's linear layers only and would ignore the rest. Leave "
            "`target_modules` out, or narrow it to modules below `language_model`."
        )
    return LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=pattern, task_type="CAUSAL_LM"
    )


def all_linear(model: nn.Module) -> str:
    """A regular expression of the names of the language model's linear layers."""
    kinds = sorted({name.rpartition(".")[2] for name in _linear(model)})
    if not kinds:
        raise UnservableWeights(
            f"{type(model).__name__} has no linear layers below a module named `language_model`."
        )
    return rf"(.*\.)?language_model\..*\.({'|'.join(kinds)})"


def _linear(model: nn.Module) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and LANGUAGE_MODEL.match(name)
    ]
