"""Leaving image tokens out of a request, for any of vLLM's multimodal models.

Nothing here knows a family. vLLM asks every model's processor which tokens stand for an image, and
on which of them its embeddings go (`PromptUpdateDetails`). Hidden image tokens are taken out of
those, and their rows out of what the model makes of the image; tokens that stand for no part of the
image, such as the end of a row, stay. So a masked request is an ordinary, shorter request.

Where positions count the tokens that are there, leaving a token out and hiding it from attention
are the same thing. Where they do not (`mrope`), what stays keeps its position. Both are held
against transformers in tests/families.

What masks of an image share is done once: its pixels are resized and cut into tiles once (in the
worker's process), and the vision tower runs once (in the engine's; `feature_cache`).
"""

import importlib
from dataclasses import replace
from functools import cache
from typing import Any

from cachetools import LRUCache
from vllm.model_executor.models import registry
from vllm.model_executor.models.interfaces import supports_lora, supports_mrope
from vllm.model_executor.models.utils import WeightsMapper

from service.checkpoints.tensor_names import CLIP_TOWER, PUBLISHED_NAMES
from worker.model_shapes import EngineNames
from worker.plugin.masking.model import FEATURE_CACHE_GIB, LoRALanguageModel, MaskingModel
from worker.plugin.masking.mrope import MaskingMRoPE
from worker.plugin.masking.processor import (
    PROCESSED_CACHE_BYTES,
    MaskingProcessor,
    Placeholder,
    tensor_bytes,
)
from worker.plugin.masking.request import IMAGE_REQUESTS, ImageRequest

__all__ = [
    "FEATURE_CACHE_GIB",
    "IMAGE_REQUESTS",
    "ImageRequest",
    "Placeholder",
    "engine_names",
    "masked_model",
]

_CLIP_TOWER = WeightsMapper(orig_to_new_regex=dict([CLIP_TOWER]))  # pyright: ignore

ENGINE_NAMES: dict[str, WeightsMapper] = {
    "LlavaForConditionalGeneration": WeightsMapper(orig_to_new_regex=dict(PUBLISHED_NAMES)),  # pyright: ignore
    "LlavaNextForConditionalGeneration": WeightsMapper(orig_to_new_regex=dict(PUBLISHED_NAMES)),  # pyright: ignore
}
"""How checkpoints' names become the engine's, where vLLM's own rules are replaced: they do not know
the names that transformers 5 has for towers."""

CLIP_TOWERS = (
    "LlavaOnevisionForConditionalGeneration",
    "Gemma3ForConditionalGeneration",
    "PaliGemmaForConditionalGeneration",
    "Cohere2VisionForConditionalGeneration",
)
"""Models whose CLIP or SigLIP tower is named by transformers 5 as vLLM 0.32's rules do not know."""


def __getattr__(name: str) -> type:
    """For vLLM, by the names that `worker.plugin.register` gives."""
    architecture, at, _ = name.partition("@")
    if not at:
        raise AttributeError(name)
    return masked_model(architecture)


def engine_names(architecture: str) -> EngineNames:
    """How names of a checkpoint's tensors, whoever wrote it, become the engine's."""
    mapper = getattr(masked_model(architecture), "hf_to_vllm_mapper", None)
    return list if mapper is None else mapper.apply_list


@cache
def masked_model(architecture: str) -> Any:
    """vLLM's own class for an architecture, taught to leave image tokens out.

    Raises: KeyError, where vLLM has no multimodal model of that name.
    """
    module, name = registry._MULTIMODAL_MODELS[architecture]
    if not module.startswith("vllm."):
        module = f"vllm.model_executor.models.{module}"
    base: Any = getattr(importlib.import_module(module), name)
    mrope, takes_lora = bool(supports_mrope(base)), bool(supports_lora(base))
    mixins: list[type] = [MaskingModel]
    if mrope:
        mixins.insert(0, MaskingMRoPE)
    if not takes_lora:
        mixins.append(LoRALanguageModel)
    body: dict[str, Any] = {"__module__": base.__module__}
    if architecture in ENGINE_NAMES:
        body["hf_to_vllm_mapper"] = ENGINE_NAMES[architecture]
    elif architecture in CLIP_TOWERS:
        body["hf_to_vllm_mapper"] = base.hf_to_vllm_mapper | _CLIP_TOWER
    model: Any = type(base.__name__, (*mixins, base), body)
    factories = base._processor_factory

    def build(info: Any, dummy_inputs: Any, **more: Any) -> Any:
        # Some models choose the processor's class by the checkpoint: it is known once there is one.
        made = factories.processor(info, dummy_inputs, **more)
        masking: Any = type(type(made).__name__, (MaskingProcessor, type(made)), {})
        processor = masking.__new__(masking)
        processed: Any = LRUCache(PROCESSED_CACHE_BYTES, getsizeof=tensor_bytes)
        processor.__dict__.update(made.__dict__, _processed=processed)
        return processor

    model._processor_factory = replace(factories, processor=build)
    return model
