"""The tensors of a model and their shapes, without its weights: from the model on the meta device.

What weights are judged by before the engine hears of them, and what the engine serves LoRA on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
)

LANGUAGE_MODEL = "language_model"
"""What models with code of their own call it."""

Shape = tuple[int, ...]
EngineNames = Callable[[Sequence[str]], list[str]]


@dataclass(frozen=True, slots=True)
class ModelShapes:
    """A model's tensors, by the engine's names."""

    tensors: Mapping[str, Shape]
    """All parameters and buffers that a checkpoint holds."""
    linear_layers: Mapping[str, tuple[int, int]]
    """(outputs, inputs) of each linear layer of the language model, which LoRA adapters may be of.
    The output layer (`lm_head`) is none of them."""
    engine_names: EngineNames
    """Turns names of a checkpoint, whoever wrote it, into the engine's."""
    complete: bool = True
    """Whether all of the model is known. Else it is its language model alone: transformers has no
    class of the whole."""

    @property
    def lora_target_modules(self) -> list[str]:
        """The last part of the linear layers' names, such as `q_proj`: what vLLM calls so."""
        return sorted({name.rpartition(".")[2] for name in self.linear_layers})


def model_shapes(config: Any, engine_names: EngineNames) -> ModelShapes:
    """Shapes of the model that transformers makes of this config; of its language model alone where
    transformers has no class of the whole (InternVL's own layout).

    Args:
        config: transformers' config of a vision-language model.
        engine_names: turns a checkpoint's names into the engine's, such as vLLM's
            `WeightsMapper.apply_list`.
    """
    complete = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    with torch.device("meta"):
        if complete:
            model = AutoModelForImageTextToText.from_config(config)
        else:
            model = AutoModelForCausalLM.from_config(_language_config(config))
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    start = "" if complete else f"{LANGUAGE_MODEL}."
    tensors = {
        start + name: tuple(t.shape) for name, t in model.state_dict().items() if name not in tied
    }
    language_model = model.get_decoder()
    [prefix] = [name for name, module in model.named_modules() if module is language_model]
    layers = {
        f"{start}{prefix}.{name}": (module.out_features, module.in_features)
        for name, module in language_model.named_modules()
        if isinstance(module, nn.Linear)
    }
    # Names of layers go through as their weights': rules may ask for the dot behind a name.
    weights = engine_names([f"{name}.weight" for name in layers])
    return ModelShapes(
        tensors=dict(zip(engine_names(list(tensors)), tensors.values(), strict=True)),
        linear_layers={
            weight.removesuffix(".weight"): shape
            for weight, shape in zip(weights, layers.values(), strict=True)
        },
        engine_names=engine_names,
        complete=complete,
    )


def _language_config(config: Any) -> Any:
    """vLLM renames `llm_config` once it has read it."""
    return getattr(config, "llm_config", None) or config.text_config
