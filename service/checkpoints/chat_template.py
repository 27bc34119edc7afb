"""A checkpoint's chat template, wherever it is kept."""

import json
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
    """In words: the file that it is in, or else whose template it is; and its name, where there are
    several."""


FOLDER = "additional_chat_templates"
"""Where a checkpoint has those templates by name that are not the default one."""

CONFIGS = ("chat_template.json", "processor_config.json", "tokenizer_config.json")
"""Older files that a template may be in, under the key `chat_template`."""


def find_chat_template(processor: Any, asked: str | None = None) -> ChatTemplate:
    """The template of a checkpoint, in vLLM's order: what is asked for, the processor's, the
    tokenizer's. Both of the latter may have several, by name; then it is `default`.

    transformers has read the files: `chat_template.jinja`, `additional_chat_templates/`, and those
    of `CONFIGS`.

    Args:
        processor: transformers'.
        asked: a file, or the name of one of several templates.

    Raises: NoChatTemplate.
    """
    owners = {"processor": processor, "tokenizer": processor.tokenizer}
    named = {owner: _named(getattr(o, "chat_template", None)) for owner, o in owners.items()}
    wanted = asked or "default"
    if asked is not None and Path(asked).is_file():
        return ChatTemplate(Path(asked).read_text(encoding="utf-8"), source=asked)
    for owner, templates in named.items():
        if wanted in templates:
            text = templates[wanted]
            source = _file_of(processor.tokenizer.name_or_path, wanted, text) or f"the {owner}'s"
            name = "" if len(templates) == 1 else f", named {wanted!r} of {len(templates)}"
            return ChatTemplate(text, source + name)
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
    """As transformers has them."""
    if not templates:
        return {}
    return {"default": templates} if isinstance(templates, str) else dict(templates)


def _file_of(checkpoint: str, name: str, template: str) -> str | None:
    """Which of the checkpoint's files a template is in. None: it cannot be known."""
    for file in ("chat_template.jinja", f"{FOLDER}/{name}.jinja", *CONFIGS):
        path = _local(checkpoint, file)
        text = path.read_text(encoding="utf-8") if path else ""
        if text and file in CONFIGS:
            text = _named_in_file(json.loads(text).get("chat_template")).get(name)
        if text == template:
            return file
    return None


def _local(checkpoint: str, file: str) -> Path | None:
    """A file of a folder, or of what the hub's cache has of a checkpoint."""
    if Path(checkpoint).is_dir():
        path = Path(checkpoint, file)
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(checkpoint, file)
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None


def _named_in_file(templates: str | list[dict[str, str]] | None) -> dict[str, str]:
    if isinstance(templates, list):
        return {one["name"]: one["template"] for one in templates}
    return _named(templates)
