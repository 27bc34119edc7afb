"""Whether two processes turn the same conversations and pictures into the same inputs."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from service.schemas import InputDigest

HEX_DIGITS = 16


def input_digest(
    processor: Any,
    template: str,
    template_kwargs: Mapping[str, Any],
    processor_kwargs: Mapping[str, Any],
) -> InputDigest:
    """The digest of a checkpoint's inputs. `processor` is transformers', with a fast tokenizer; or
    has an `image_processor` that is null, where the model's own code processes pictures."""
    return InputDigest(
        chat_template=_digest([template, dict(template_kwargs)]),
        tokenizer=_digest(_tokenizer_state(processor.tokenizer)),
        processor=_digest([_processor_state(processor), dict(processor_kwargs)]),
    )


def _tokenizer_state(tokenizer: Any) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    # Left behind by the last call; they change no token.
    for name in ("padding", "truncation"):
        state.pop(name, None)
    return state | {"bos": tokenizer.bos_token, "eos": tokenizer.eos_token}


LABELS = ("processor_class", "_processor_class", "auto_map")
"""Among an image processor's settings, what changes no pixel. Its own class does: with torchvision
and without, pictures are resized otherwise."""


def _processor_state(processor: Any) -> dict[str, Any]:
    if processor.image_processor is None:
        return {}
    pictures: dict[str, Any] = processor.image_processor.to_dict()
    attributes: dict[str, Any] = processor.__dict__
    own = {
        name: value
        for name, value in attributes.items()
        if isinstance(value, str | int | float | bool) and name != "chat_template"
    }
    return {"image_processor": {k: v for k, v in pictures.items() if k not in LABELS}, **own}


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:HEX_DIGITS]
