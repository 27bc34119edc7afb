"""What turns conversations and pictures into a checkpoint's inputs, the same in all processes.

transformers is imported by the call: worker and trainer have it, the service does without.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Image

from service import model_names
from service.checkpoints.chat_template import ChatTemplate, find_chat_template
from service.checkpoints.digest import input_digest
from service.checkpoints.placeholder import find_placeholder
from service.checkpoints.settings import InputSettings
from service.rendering import Renderer
from service.schemas import InputDigest

IMAGE_TOKENS = {"internvl_chat": "<IMG_CONTEXT>"}
"""Type of a model → the token that its images' features go onto, where config.json names none."""

TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids")
"""Names under which models want to be told which tokens are of images."""

TOKEN_FIELDS = ("input_ids", "attention_mask", *TOKEN_TYPES)
"""What a processor gives for each token; the rest of what it gives is of the pictures."""


class UnusableCheckpoint(ValueError):
    """There is no such checkpoint, or its files lack what conversations with pictures need."""


@dataclass(frozen=True, slots=True)
class TokenizerAlone:
    """In place of a processor, where the model's own code processes pictures."""

    tokenizer: Any
    """transformers'."""
    image_processor: None = None


@dataclass(frozen=True)
class InputProcessor:
    """Of one checkpoint, under given settings."""

    processor: Any
    """transformers', or a `TokenizerAlone`."""
    renderer: Renderer
    template: ChatTemplate
    processor_kwargs: Mapping[str, Any]
    """For each call of `processor`."""
    digest: InputDigest
    feature_token_id: int
    """The token that each of an image's features goes onto."""
    max_tokens: int | None = None
    """Positions that the model has; None: its config.json names no number."""

    def process_images(self, pictures: Sequence[Image]) -> tuple[list[list[int]], dict[str, Any]]:
        """The tokens that stand for each picture in a sequence, and the tensors that the model sees
        of them all, by the names of its `forward`.

        The processor is shown each picture beside the placeholder alone; what it makes of that
        stands for the picture.

        Raises: UnusableCheckpoint: transformers has no processor of its pictures.
        """
        if not pictures:
            return [], {}
        if self.processor.image_processor is None:
            raise UnusableCheckpoint(
                f"{self.processor.tokenizer.name_or_path}: transformers has no processor of its "
                "pictures; vLLM has one of its own, so that it can be served, but not trained."
            )
        processed = self.processor(
            text=[self.renderer.image_token] * len(pictures),
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

    def with_images(self, token_ids: Sequence[int], images: Iterator[Sequence[int]]) -> list[int]:
        """A rendered conversation's ids with all tokens of an image, as of `process_images`, in
        place of each placeholder: as the processor writes the whole of it.

        Line feeds that meet are one token, where the tokenizer has it so (Gemma 3).
        """
        filled: list[int] = []
        behind_image = False
        for token in token_ids:
            is_image = token == self.renderer.image_token_id
            tokens = next(images) if is_image else [token]
            line = None
            if is_image or behind_image:
                line = self._one_line_feed([*filled[-1:], *tokens[:1]])
            if line is None:
                filled += tokens
            else:
                filled[-1:] = [line, *tokens[1:]]
            behind_image = is_image
        return filled

    def _one_line_feed(self, met: Sequence[int]) -> int | None:
        """The token of two line feeds that meet; null where the tokenizer keeps them apart, or they
        are something else."""
        tokenizer = self.processor.tokenizer
        text = tokenizer.decode(met)
        if len(met) < 2 or text.strip("\n"):
            return None
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokens[0] if len(tokens) == 1 else None

    def token_types(self, token_ids: Sequence[Sequence[int]]) -> dict[str, list[list[int]]]:
        """Which tokens are of images (1) and which are not (0), by the name under which the model
        wants to be told; nothing, if it does not ask."""
        names = getattr(self.processor, "model_input_names", ())
        return {
            name: self.processor.create_mm_token_type_ids([list(ids) for ids in token_ids])
            for name in TOKEN_TYPES
            if name in names
        }


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
    processor = _load_processor(model, name, config, trust_remote_code)
    _complete(processor, config)
    template = find_chat_template(processor, settings.chat_template)
    feature_token_id = image_token_id(model, config, processor.tokenizer)
    placeholder = find_placeholder(
        processor, template.text, settings.chat_template_kwargs, feature_token_id
    )
    return InputProcessor(
        processor=processor,
        renderer=Renderer(
            processor.tokenizer,
            template.text,
            image_token_id=placeholder.token_id,
            takes_parts=placeholder.in_parts,
            end_token_ids=_end_token_ids(name, config),
            template_kwargs=settings.chat_template_kwargs,
        ),
        template=template,
        processor_kwargs=settings.mm_processor_kwargs,
        digest=input_digest(
            processor, template.text, settings.chat_template_kwargs, settings.mm_processor_kwargs
        ),
        feature_token_id=feature_token_id,
        max_tokens=getattr(config.get_text_config(), "max_position_embeddings", None),
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


def _load_processor(model: str, name: str, config: Any, trust_remote_code: bool) -> Any:
    from transformers import AutoProcessor, PreTrainedTokenizerBase

    auto: Any = AutoProcessor
    try:
        processor: Any = auto.from_pretrained(name, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise UnusableCheckpoint(
            f"{model}: its processor or tokenizer cannot be loaded: {_first_line(error)} Are all "
            "files there: preprocessor_config.json, processor_config.json, tokenizer.json, "
            "tokenizer_config.json?"
        ) from error
    if isinstance(processor, PreTrainedTokenizerBase) and sees_by_own_code(config):
        processor = TokenizerAlone(processor)
    elif getattr(processor, "image_processor", None) is None:
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


def sees_by_own_code(config: Any) -> bool:
    """Whether it is a vision-language model of which transformers has no class. `config` is
    transformers'."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    known: Mapping[str, str] = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return hasattr(config, "vision_config") and config.model_type not in known


def _complete(processor: Any, config: Any) -> None:
    """Sets what older folders' processor_config.json lack, or lack with the whole file: without it,
    LLaVA's processors write another number of image tokens than the model makes, or none."""
    if not hasattr(processor, "num_additional_image_tokens"):
        return
    if processor.patch_size is None:
        processor.patch_size = config.vision_config.patch_size
    if processor.vision_feature_select_strategy is None:
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
    if config.vision_config.model_type == "clip_vision_model":  # it makes one of the whole image
        processor.num_additional_image_tokens = 1


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def image_token_id(model: str, config: Any, tokenizer: Any) -> int:
    """The id of the token that each of an image's features goes onto. transformers has two names
    for it; some models have it in their own code alone (`IMAGE_TOKENS`).

    Raises: UnusableCheckpoint.
    """
    for name in ("image_token_id", "image_token_index"):
        if (token := getattr(config, name, None)) is not None:
            return token
    token = tokenizer.get_vocab().get(IMAGE_TOKENS.get(config.model_type))
    if token is not None:
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
