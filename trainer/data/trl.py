"""TRL's vision preference rows, and this project's own exports, which have more columns.

{prompt, images or image, chosen, rejected}: plain texts or conversations. Without `prompt`, it is
what both sides begin with (TRL's implicit prompt). Rows of {prompt, completion} are instruction
data.
"""

from collections.abc import Iterator
from typing import Any

from service.schemas import ImagePart, Message, Part, TextPart
from trainer.data import turns
from trainer.data.example import Example, ImageSource
from trainer.data.images import images_of_row

KEPT = ("pair_id", "method", "chosen_version", "rejected_version", "metadata")


def matches(row: dict[str, Any]) -> bool:
    return {"chosen", "rejected"} <= row.keys() or {"prompt", "completion"} <= row.keys()


def examples(row: dict[str, Any]) -> Iterator[Example]:
    images = images_of_row(row)
    prompt, chosen = row.get("prompt"), row.get("chosen", row.get("completion"))
    rejected = row.get("rejected")
    if not prompt:
        prompt, chosen, rejected = _split(chosen, rejected)
    yield Example(
        messages=_conversation(prompt, images),
        images=images,
        chosen=_response(chosen),
        rejected=None if rejected is None else _response(rejected),
        metadata={name: row[name] for name in KEPT if row.get(name) is not None},
    )


def _split(chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """Prompt and sides, of sides that begin with the prompt."""
    if not isinstance(chosen, list) or not isinstance(rejected, list):
        raise ValueError("without `prompt`, `chosen` and `rejected` must be whole conversations")
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _conversation(prompt: Any, images: tuple[ImageSource, ...]) -> list[Message]:
    if isinstance(prompt, str):
        return [turns.user_turn(prompt, len(images))]
    talk = [Message(role=turn["role"], content=_parts(turn["content"])) for turn in prompt]
    if images and not _places(talk):
        talk = [_with_places(turn) if turn.role == "user" else turn for turn in talk]
    if images and not _places(talk):  # as TRL does: the images stand before the first question
        first = next((i for i, turn in enumerate(talk) if turn.role == "user"), None)
        if first is None:
            raise ValueError("a prompt without a user's turn")
        talk[first] = Message(
            role="user", content=[*(ImagePart() for _ in images), *talk[first].parts]
        )
    if (places := _places(talk)) != len(images):
        raise ValueError(f"{places} places for images in the prompt, but {len(images)} images")
    return talk


def _places(talk: list[Message]) -> int:
    return sum(isinstance(part, ImagePart) for turn in talk for part in turn.parts)


def _with_places(turn: Message) -> Message:
    """The turn with places for images in place of the `<image>` in its text."""
    if turns.TOKEN not in turn.text:
        return turn
    return turns.user_turn(turn.text, turn.text.count(turns.TOKEN))


def _parts(content: Any) -> str | list[Part]:
    """Of a message. Parquet gives every part all keys, those it lacks as None."""
    if isinstance(content, str):
        return content
    return [_part(part) for part in content]


def _part(part: dict[str, Any]) -> Part:
    if part["type"] == "image":
        return ImagePart()
    if part["type"] != "text":
        raise ValueError(f"a part of type {part['type']!r}, which is neither text nor image")
    return TextPart(text=part["text"])


def _response(side: Any) -> str:
    """A side's text: of a conversational one, its single assistant turn."""
    if isinstance(side, str):
        return side
    if len(side) != 1 or side[0]["role"] != "assistant":
        raise ValueError("a side must be one assistant turn")
    message = Message(role="assistant", content=_parts(side[0]["content"]))
    texts = [part.text for part in message.parts if isinstance(part, TextPart)]
    if len(texts) != len(message.parts):
        raise ValueError("a response with an image in it")
    return "".join(texts)
