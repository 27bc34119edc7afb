"""The vLLM plugin: models that can leave image tokens out.

vLLM loads it through the entry-point group `vllm.general_plugins` in every process of the engine.
It registers, under the same architecture names, subclasses of vLLM's own models whose requests may
carry a mask over the image's tokens. What is masked is not computed: the sequence is shorter.

A family is one module here with a model class and a `views` function; `FAMILIES` lists them.
"""

import importlib
from types import ModuleType

from worker.plugin.parent_death import end_with_parent

FAMILIES = {
    "LlavaForConditionalGeneration": "llava",
    "LlavaNextForConditionalGeneration": "llava_next",
}
"""Architecture, as a checkpoint's config.json names it → the module that teaches it to mask."""


class UnsupportedModel(ValueError):
    """The checkpoint's architecture is none of `FAMILIES`."""


def family(architecture: str) -> ModuleType:
    """The module of an architecture. It imports vLLM.

    Raises:
        UnsupportedModel: with the list of those that are supported.
    """
    if architecture not in FAMILIES:
        raise UnsupportedModel(
            f"{architecture} cannot leave image tokens out; supported: {', '.join(FAMILIES)}"
        )
    return importlib.import_module(f"worker.plugin.{FAMILIES[architecture]}")


def register() -> None:
    """vLLM's entry point. Names the classes; vLLM imports them when a model needs them."""
    from vllm import ModelRegistry

    from worker.plugin.chunked_prefill import draw_pieces_apart

    end_with_parent()
    draw_pieces_apart()
    for architecture, module in FAMILIES.items():
        ModelRegistry.register_model(architecture, f"worker.plugin.{module}:MaskedModel")
