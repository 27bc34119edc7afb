"""A checkpoint's chat template, wherever it is kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class NoChatTemplate(ValueError):
    """There is no template, or none of the name that was asked for."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A template, and where it came from."""

    text: str
    """Jinja."""
    source: str
    """In words: the file that was given, or whose template it is."""


def find_chat_template(processor: Any, asked: str | None = None) -> ChatTemplate:
    """The template of a checkpoint, in vLLM's order: what is asked for, the processor's, the
    tokenizer's. Both of the latter may have several, by name; then it is `default`.

    transformers has read the files: `chat_template.jinja`, `chat_template.json`,
    `additional_chat_templates/`, or the tokenizer's configuration.

    Args:
        processor: transformers'.
        asked: a file, or the name of one of several templates.

    Raises: NoChatTemplate.
    """
    owners = {"processor": processor, "tokenizer": processor.tokenizer}
    named = {owner: _named(getattr(o, "chat_template", None)) for owner, o in owners.items()}
    wanted = asked or "default"
    if asked is not None and Path(asked).is_file():
        return ChatTemplate(Path(asked).read_text(), source=asked)
    for owner, templates in named.items():
        if wanted in templates:
            name = "" if len(templates) == 1 else f", named {wanted!r} of {len(templates)}"
            return ChatTemplate(templates[wanted], source=f"the {owner}'s{name}")
    names = sorted({name for templates in named.values() for name in templates})
    if asked is not None:
        raise NoChatTemplate(
            f"--chat-template {asked}: there is no such file, and the checkpoint has "
            + (f"these by name: {', '.join(names)}." if names else "no template of its own.")
        )
    if names:
        raise NoChatTemplate(
            f"The checkpoint has several chat templates ({', '.join(names)}) and none of them is "
            "the default one. Choose one with --chat-template NAME."
        )
    raise NoChatTemplate(
        "The checkpoint has no chat template, neither its processor nor its tokenizer: a base "
        "model, perhaps. Name a file with one by --chat-template FILE."
    )


def _named(templates: str | Mapping[str, str] | None) -> dict[str, str]:
    if not templates:
        return {}
    return {"default": templates} if isinstance(templates, str) else dict(templates)
