"""The models that BDHS is proven on, and what else may be tried. Light to import."""

PROVEN = {
    "LlavaForConditionalGeneration": "LLaVA-1.5",
    "LlavaNextForConditionalGeneration": "LLaVA-NeXT (1.6)",
    "LlavaOnevisionForConditionalGeneration": "LLaVA-OneVision",
    "Qwen2VLForConditionalGeneration": "Qwen2-VL",
    "Qwen2_5_VLForConditionalGeneration": "Qwen2.5-VL",
    "Qwen3VLForConditionalGeneration": "Qwen3-VL",
    "Qwen3_5ForConditionalGeneration": "Qwen3.5",
    "InternVLForConditionalGeneration": "InternVL",
    "InternVLChatModel": "InternVL, with its remote code",
    "Gemma3ForConditionalGeneration": "Gemma 3",
    "Gemma4ForConditionalGeneration": "Gemma 4",
    "Idefics3ForConditionalGeneration": "Idefics3",
    "SmolVLMForConditionalGeneration": "SmolVLM",
    "Mistral3ForConditionalGeneration": "Mistral3",
}
"""Architecture, as a checkpoint's config.json names it → the family's name. Of each, tests/families
holds what the engine writes under masks against transformers."""

RECURRENT = {"Qwen3_5ForConditionalGeneration"}
"""Those with recurrent layers, whose state a hidden token would still change: it is absent, and not
hidden (docs/families.md)."""


class UnsupportedModel(ValueError):
    """The checkpoint's architecture cannot be served, or is not proven and was not let in."""


def require_family(architecture: str, *, unproven: bool = False) -> None:
    """Raises: UnsupportedModel: with the list of those that are proven; `unproven` lets others
    in, as far as vLLM has them."""
    if architecture in PROVEN:
        return
    names = ", ".join(PROVEN)
    if not unproven:
        raise UnsupportedModel(
            f"{architecture} is not proven to leave image tokens out as its family's attention "
            f"would; proven are: {names}. With --unproven it is tried, after a check at start."
        )
    if architecture not in multimodal_architectures():
        raise UnsupportedModel(f"vLLM has no multimodal model {architecture}; proven are: {names}.")


def multimodal_architectures() -> list[str]:
    """Those that vLLM has. It imports vLLM."""
    from vllm.model_executor.models.registry import _MULTIMODAL_MODELS

    return list(_MULTIMODAL_MODELS)
