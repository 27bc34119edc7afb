"""What turns conversations and pictures into a checkpoint's inputs, the same in all processes.

transformers is imported by the call: worker and trainer have it, the service does without.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Image

from service import model_names
from service.checkpoints.chat_template import ChatTemplate, find_chat_template
from service.checkpoints.digest import input_digest
from service.checkpoints.settings import InputSettings
from service.rendering import Renderer
from service.schemas import InputDigest

TOKEN_FIELDS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""What a processor gives for each token; the rest of what it gives is of the pictures."""


class UnusableCheckpoint(ValueError):
    """There is no such checkpoint, or its files lack what conversations with pictures need."""


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

    def process_images(self, pictures: Sequence[Image]) -> tuple[list[list[int]], dict[str, Any]]:
        """The tokens that stand for each picture in a sequence, and the tensors that the model sees
        of them all, by the names of its `forward`.

        The processor is shown each picture beside the placeholder alone; what it makes of that
        stands for the picture.
        """
        if not pictures:
            return [], {}
        tokenizer = self.processor.tokenizer
        processed = self.processor(
            text=[tokenizer.convert_ids_to_tokens(self.renderer.image_token_id)] * len(pictures),
            images=[[picture] for picture in pictures],
            add_special_tokens=False,
            padding=True,
            return_tensors="pt",
            **self.processor_kwargs,
        )
        there = processed["attention_mask"].bool()
        tokens = [
            ids[mask].tolist() for ids, mask in zip(processed["input_ids"], there, strict=True)
        ]
        return tokens, {k: v for k, v in processed.items() if k not in TOKEN_FIELDS}


def load_input_processor(
    model: str, settings: InputSettings, *, trust_remote_code: bool = False
) -> InputProcessor:
    """Reads a checkpoint's configuration, tokenizer and processor, and no weights.

    Args:
        model: a folder, a hub name, or a name that an installed package gives (`toy`).

    Raises: UnusableCheckpoint, NoChatTemplate: with the remedy.
    """
    config = load_config(model, trust_remote_code=trust_remote_code)
    name = model_names.resolve_model(model)
    processor = _load_processor(model, name, trust_remote_code)
    template = find_chat_template(processor, settings.chat_template)
    return InputProcessor(
        processor=processor,
        renderer=Renderer(
            processor.tokenizer,
            template.text,
            image_token_id=image_token_id(model, config),
            end_token_ids=_end_token_ids(name, config),
            template_kwargs=settings.chat_template_kwargs,
        ),
        template=template,
        processor_kwargs=settings.mm_processor_kwargs,
        digest=input_digest(
            processor, template.text, settings.chat_template_kwargs, settings.mm_processor_kwargs
        ),
    )


def load_config(model: str, *, trust_remote_code: bool = False) -> Any:
    """transformers' config of a checkpoint; `model` as in `load_input_processor`.

    Raises: UnusableCheckpoint.
    """
    from transformers import AutoConfig

    name = model_names.resolve_model(model)
    if Path(name).is_dir() and not Path(name, "config.json").is_file():
        raise UnusableCheckpoint(
            f"{model} is a folder without a config.json: no checkpoint, or an incomplete one."
        )
    auto: Any = AutoConfig
    try:
        return auto.from_pretrained(name, trust_remote_code=trust_remote_code)
    except OSError as error:
        if Path(name).is_dir():
            raise UnusableCheckpoint(f"{model}: {_first_line(error)}") from error
        raise UnusableCheckpoint(
            f"{model}: there is no such folder here, and no checkpoint of that name could be had "
            f"from the hub or its cache: {_first_line(error)} Check the name; a private one needs "
            "HF_TOKEN."
        ) from error
    except ValueError as error:
        raise UnusableCheckpoint(
            f"{model}: transformers knows no model like its config.json: {_first_line(error)}"
        ) from error


def _load_processor(model: str, name: str, trust_remote_code: bool) -> Any:
    from transformers import AutoProcessor

    auto: Any = AutoProcessor
    try:
        processor: Any = auto.from_pretrained(name, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise UnusableCheckpoint(
            f"{model}: its processor or tokenizer cannot be loaded: {_first_line(error)} Are all "
            "files there: preprocessor_config.json, processor_config.json, tokenizer.json, "
            "tokenizer_config.json?"
        ) from error
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
    return processor


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


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


def _end_token_ids(name: str, config: Any) -> Sequence[int]:
    """At which `generate` and vLLM stop, beside the tokenizer's own."""
    from transformers import GenerationConfig

    auto: Any = GenerationConfig
    try:
        ends: int | list[int] | None = auto.from_pretrained(name).eos_token_id
    except OSError:  # without the file, both go by config.json
        ends = auto.from_model_config(config).eos_token_id
    return ends if isinstance(ends, list) else [] if ends is None else [ends]
