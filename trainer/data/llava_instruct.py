"""LLaVA-Instruct-150K (Liu et al. 2023) and what else is laid out like it.

A JSON array of {id, image, conversations}. Every answer of a conversation is a reference, with the
true turns before it as context.
"""

from collections.abc import Iterator
from typing import Any

from trainer.data import turns
from trainer.data.example import Example
from trainer.data.images import images_of_row


def matches(row: dict[str, Any]) -> bool:
    return "conversations" in row


def examples(row: dict[str, Any]) -> Iterator[Example]:
    talk, images = row["conversations"], images_of_row(row)
    found = list(turns.answers(talk))
    if not found:
        raise ValueError("a conversation without an answer")
    for index in found:
        yield Example(
            messages=turns.messages(talk[:index], len(images)),
            images=images,
            chosen=talk[index]["value"],
            metadata={"id": str(row.get("id", ""))},
        )
