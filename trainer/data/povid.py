"""POVID (Zhou et al. 2024, arXiv 2402.11411): LLaVA-Instruct's answers, and GPT-4V's corruptions.

A JSON array of {id, image, conversations, rejected_conversations}, both conversations in LLaVA's
form and turn by turn alike. Each answer that differs is a pair, with the true turns before it as
context.
"""

from collections.abc import Iterator
from typing import Any

from trainer.data import turns
from trainer.data.example import Example
from trainer.data.images import images_of_row


def matches(row: dict[str, Any]) -> bool:
    return "conversations" in row and "rejected_conversations" in row


def examples(row: dict[str, Any]) -> Iterator[Example]:
    talk, worse = row["conversations"], row["rejected_conversations"]
    if len(talk) != len(worse):
        raise ValueError(f"{len(talk)} turns, but {len(worse)} in rejected_conversations")
    images = images_of_row(row)
    for index in turns.answers(talk):
        chosen, rejected = talk[index]["value"], worse[index]["value"]
        if chosen.strip() != rejected.strip():
            yield Example(
                messages=turns.messages(talk[:index], len(images)),
                images=images,
                chosen=chosen,
                rejected=rejected,
                metadata={"id": str(row.get("id", ""))},
            )
