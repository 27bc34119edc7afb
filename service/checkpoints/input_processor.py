"""What turns conversations and pictures into a checkpoint's inputs, the same in all processes.

transformers is imported by the call: worker and trainer have it, the service does without.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service import model_names
from service.checkpoints.chat_template import ChatTemplate, find_chat_template
from service.checkpoints.digest import input_digest
from service.checkpoints.settings import InputSettings
from service.rendering import Renderer
from service.schemas import InputDigest


class UnusableCheckpoint(ValueError):
    """The checkpoint's files lack what conversations with pictures need."""


@dataclass(frozen=True)
class InputProcessor:
    """Of one checkpoint, under given settings."""

    processor: Any
    """transformers'."""
    renderer: Renderer
    template: ChatTemplate
    processor_kwargs: Mapping[str, Any]
    """For each call of `processor`."""
    digest: InputDigest


def load_input_processor(
    model: str, settings: InputSettings, *, trust_remote_code: bool = False
) -> InputProcessor:
    """Reads a checkpoint's configuration, tokenizer and processor, and no weights.

    Args:
        model: a folder, a hub name, or a name that an installed package gives (`toy`).

    Raises:
        UnusableCheckpoint, NoChatTemplate: with the remedy.
        OSError: there is no such checkpoint.
    """
    from transformers import AutoConfig, AutoProcessor

    name = model_names.resolve_model(model)
    config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    processor: Any = AutoProcessor.from_pretrained(name, trust_remote_code=trust_remote_code)
    _check(model, processor)
    template = find_chat_template(processor, settings.chat_template)
    return InputProcessor(
        processor=processor,
        renderer=Renderer(
            processor.tokenizer,
            template.text,
            image_token_id=image_token_id(model, config),
            end_token_ids=_end_token_ids(name),
            template_kwargs=settings.chat_template_kwargs,
        ),
        template=template,
        processor_kwargs=settings.mm_processor_kwargs,
        digest=input_digest(
            processor, template.text, settings.chat_template_kwargs, settings.mm_processor_kwargs
        ),
    )


def _check(model: str, processor: Any) -> None:
    if getattr(processor, "image_processor", None) is None:
        raise UnusableCheckpoint(
            f"{model} has no processor of pictures (preprocessor_config.json): it is a language "
            "model alone, or files are missing."
        )
    if not getattr(processor.tokenizer, "is_fast", False):
        raise UnusableCheckpoint(
            f"{model} has no fast tokenizer (tokenizer.json), which says at which character a "
            "token ends."
        )


def image_token_id(model: str, config: Any) -> int:
    """The id of the token that stands for an image. transformers has two names for it.

    Raises: UnusableCheckpoint.
    """
    for name in ("image_token_id", "image_token_index"):
        if (token := getattr(config, name, None)) is not None:
            return token
    raise UnusableCheckpoint(
        f"{model}: its config.json names no token that stands for an image (image_token_id)."
    )


def _end_token_ids(name: str) -> Sequence[int]:
    """At which `generate` and vLLM stop, beside the tokenizer's own."""
    from transformers import GenerationConfig

    try:
        ends = GenerationConfig.from_pretrained(name).eos_token_id
    except OSError:  # it has none
        return []
    return ends if isinstance(ends, list) else [] if ends is None else [ends]
