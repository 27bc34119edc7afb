"""The model families that can leave image tokens out.

A family is one module here with a `MaskedModel` class and the functions `image_views` and
`structure_tokens`.
"""

import importlib
from types import ModuleType

MODEL_FAMILIES = {
    "LlavaForConditionalGeneration": "llava",
    "LlavaNextForConditionalGeneration": "llava_next",
}
"""Architecture, as a checkpoint's config.json names it → the module that teaches it to mask."""


class UnsupportedModel(ValueError):
    """The checkpoint's architecture is none of `MODEL_FAMILIES`."""


def load_family(architecture: str) -> ModuleType:
    """The module of an architecture. It imports vLLM.

    Raises:
        UnsupportedModel: with the list of those that are supported.
    """
    if architecture not in MODEL_FAMILIES:
        raise UnsupportedModel(
            f"{architecture} cannot leave image tokens out; supported: {', '.join(MODEL_FAMILIES)}"
        )
    return importlib.import_module(f"worker.plugin.{MODEL_FAMILIES[architecture]}")
