"""LLaVA's conversations: turns of `from` and `value`, with `<image>` where an image belongs."""

from collections.abc import Iterator, Sequence
from typing import Any

from service.schemas import ImagePart, Message, Part, TextPart, assistant_turn

TOKEN = "<image>"

USERS = ("human", "user")
ASSISTANTS = ("gpt", "assistant", "llava", "model")


def user_turn(text: str, images: int) -> Message:
    """A user's turn of a text that may hold `<image>`; of the images, those without a token stand
    in front of the text."""
    pieces = [piece.strip() for piece in text.split(TOKEN)]
    tokens = len(pieces) - 1
    if tokens > images:
        raise ValueError(f"{tokens} {TOKEN} in a turn that has {images} images")
    parts: list[Part] = [ImagePart() for _ in range(images - tokens)]
    for number, piece in enumerate(pieces):
        if number:
            parts.append(ImagePart())
        if piece:
            parts.append(TextPart(text=piece))
    if not any(isinstance(part, TextPart) for part in parts):
        raise ValueError("a user's turn without text")
    return Message(role="user", content=parts)


def messages(turns: Sequence[dict[str, Any]], images: int) -> list[Message]:
    """The turns as messages. Images without a `<image>` token belong to the first user turn."""
    first = True
    talk: list[Message] = []
    spare = images - sum(t["value"].count(TOKEN) for t in turns if t["from"] in USERS)
    for turn in turns:
        sender, text = turn["from"], turn["value"]
        if sender == "system":
            talk.append(Message(role="system", content=text))
        elif sender in USERS:
            talk.append(user_turn(text, text.count(TOKEN) + (max(spare, 0) if first else 0)))
            first = False
        elif sender in ASSISTANTS:
            talk.append(assistant_turn(text))
        else:
            raise ValueError(f"a turn is from {sender!r}, not from human or gpt")
    if spare < 0:
        raise ValueError(f"{images - spare} {TOKEN}, but {images} images")
    return talk


def answers(turns: Sequence[dict[str, Any]]) -> Iterator[int]:
    """Indices of the turns in which the assistant answers a user."""
    for index, turn in enumerate(turns):
        if turn["from"] in ASSISTANTS and index and turns[index - 1]["from"] in USERS:
            yield index
