"""LLaVA-RLHF's LLaVA-Human-Preference-10K (Sun et al. 2023, arXiv 2309.14525).

A JSON array of {id, image, conversations, output_1, output_2, preference}: the conversation up to
the question, two responses as turns, and which a person preferred, 1 or 2.
"""

from collections.abc import Iterator
from typing import Any

from trainer.data import turns
from trainer.data.example import Example
from trainer.data.images import images_of_row


def matches(row: dict[str, Any]) -> bool:
    return {"conversations", "output_1", "output_2"} <= row.keys()


def examples(row: dict[str, Any]) -> Iterator[Example]:
    better = int(row["preference"])
    if better not in (1, 2):  # none was preferred
        return
    talk, images = list(row["conversations"]), images_of_row(row)
    while talk and talk[-1]["from"] not in turns.USERS:  # an answer that is not judged
        talk.pop()
    if not talk:
        raise ValueError("a conversation without a question")
    yield Example(
        messages=turns.messages(talk, len(images)),
        images=images,
        chosen=row[f"output_{better}"]["value"],
        rejected=row[f"output_{3 - better}"]["value"],
        metadata={"id": str(row.get("id", ""))},
    )
