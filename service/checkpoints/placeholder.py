"""What a chat template writes for an image, and whether it looks at the parts of a message.

A configuration names the token that an image's features go onto. Most templates write that one,
once for each image; Gemma 3's writes another, and the templates of language models, which some
vision-language checkpoints keep, write none: they take a message's content as one text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NAMES = ("image_token", "boi_token")
"""A processor's tokens that a template may write for an image."""

QUESTION = "What is it?"


@dataclass(frozen=True, slots=True)
class Placeholder:
    """What stands for one image in a conversation's text."""

    token_id: int
    in_parts: bool
    """Whether the template writes it for parts of type `image`; else it takes texts alone, in which
    it must stand already."""


def find_placeholder(
    processor: Any, template: str, template_kwargs: Mapping[str, Any], feature_token_id: int
) -> Placeholder:
    """
    Args:
        processor: transformers', with a tokenizer.
        template: of chats, in Jinja.
        template_kwargs: variables of the template.
        feature_token_id: the token that an image's features go onto.
    """
    tokenizer = processor.tokenizer
    written = _two_images(tokenizer, template, template_kwargs)
    if written is None:
        return Placeholder(feature_token_id, in_parts=False)
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    for name in NAMES:
        token = getattr(processor, name, None)
        if token in vocabulary and written.count(token) == 2:
            return Placeholder(vocabulary[token], in_parts=True)
    return Placeholder(feature_token_id, in_parts=True)


def _two_images(tokenizer: Any, template: str, kwargs: Mapping[str, Any]) -> str | None:
    """A question about two images. None: the template takes texts alone.

    One that takes neither counts as one that looks at parts: what it says against them is told
    where a conversation is rendered.
    """
    parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": QUESTION}]
    written = _render(tokenizer, template, kwargs, parts)
    if written is not None and QUESTION in written and "'type'" not in written:
        return written
    as_text = _render(tokenizer, template, kwargs, QUESTION)
    return None if as_text is not None and QUESTION in as_text else written or ""


def _render(
    tokenizer: Any, template: str, kwargs: Mapping[str, Any], content: Sequence[Any]
) -> str | None:
    try:
        return tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=template,
            tokenize=False,
            **kwargs,
        )
    except Exception:  # templates raise what they like
        return None
