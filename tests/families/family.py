"""The families of models that are held to transformers, and what differs among them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.families.checkpoints import gemma, idefics, internvl, llava, mistral, qwen

LANGUAGE_MODEL = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
"""Linear layers of most families' language models, as a pattern of peft's."""

TEXT_MODEL = LANGUAGE_MODEL.replace("language", "text")


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family, by a tiny random checkpoint."""

    name: str
    architecture: str
    """Of its config.json."""
    make: Callable[..., Path]
    """`make(folder, weights=True)` writes the checkpoint and returns the folder."""
    image_token: str
    """What the features of an image go onto."""
    placeholder: str | None = None
    """What the template writes for an image; null: the image token."""
    template: Literal["true", "reconstructed"] = "true"
    """Whether the chat template is the published one, or in our own words."""
    mrope: bool = False
    """Whether each token has a position of three axes; hidden tokens keep theirs. Else positions
    are a running count of what is shown."""
    recurrent: bool = False
    """Whether some layers have a state: what is left out is absent then, not masked."""
    causal_oracle: bool = False
    """Whether image tokens attend to each other, which is switched off to compare on a CPU."""
    lora_targets: str = LANGUAGE_MODEL
    """The language model's linear layers, as a pattern of peft's."""
    views: bool = True
    """Whether it can be told where on the picture an image token is."""
    trust_remote_code: bool = False
    oracle: str
    """The family whose checkpoint transformers loads in its place; of most their own name."""


def _family(make: Callable[..., Path], architecture: str, image_token: str, **more) -> Family:
    name = make.__name__
    return Family(
        **{
            "name": name,
            "make": make,
            "architecture": architecture,
            "image_token": image_token,
            "oracle": name,
            **more,
        }
    )


FAMILIES = {
    family.name: family
    for family in (
        _family(qwen.qwen2_vl, "Qwen2VLForConditionalGeneration", "<|image_pad|>", mrope=True),
        _family(qwen.qwen2_5_vl, "Qwen2_5_VLForConditionalGeneration", "<|image_pad|>", mrope=True),
        _family(qwen.qwen3_vl, "Qwen3VLForConditionalGeneration", "<|image_pad|>", mrope=True),
        _family(
            qwen.qwen3_5,
            "Qwen3_5ForConditionalGeneration",
            "<|image_pad|>",
            mrope=True,
            recurrent=True,
            lora_targets=r".*language_model.*\.(q|k|v|o|gate|up|down|out)_proj",
        ),
        _family(
            internvl.internvl,
            "InternVLForConditionalGeneration",
            "<IMG_CONTEXT>",
            template="reconstructed",
        ),
        _family(
            internvl.internvl_chat,
            "InternVLChatModel",
            "<IMG_CONTEXT>",
            template="reconstructed",
            trust_remote_code=True,
            oracle="internvl",
        ),
        _family(llava.llava, "LlavaForConditionalGeneration", "<image>", template="reconstructed"),
        _family(llava.llava_next, "LlavaNextForConditionalGeneration", "<image>"),
        _family(
            llava.llava_onevision,
            "LlavaOnevisionForConditionalGeneration",
            "<image>",
            template="reconstructed",
            views=False,
        ),
        _family(
            gemma.gemma3,
            "Gemma3ForConditionalGeneration",
            "<image_soft_token>",
            placeholder="<start_of_image>",
            causal_oracle=True,
        ),
        _family(gemma.gemma4, "Gemma4ForConditionalGeneration", "<|image|>", causal_oracle=True),
        _family(
            idefics.idefics3,
            "Idefics3ForConditionalGeneration",
            "<image>",
            lora_targets=TEXT_MODEL,
        ),
        _family(
            idefics.smolvlm, "SmolVLMForConditionalGeneration", "<image>", lora_targets=TEXT_MODEL
        ),
        _family(
            mistral.mistral3,
            "Mistral3ForConditionalGeneration",
            "[IMG]",
            template="reconstructed",
            views=False,
        ),
    )
}
"""By name."""
