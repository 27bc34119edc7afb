"""Turns of a conversation, as in TRL's conversational format."""

from typing import Annotated, Literal

from pydantic import Field

from service.schemas.base import Model, one_of


class TextPart(Model):
    """A piece of text."""

    type: Literal["text"] = "text"
    """`text`."""
    text: str
    """The text itself."""


class ImagePart(Model):
    """The place of the next image of `images`, in order."""

    type: Literal["image"] = "image"
    """`image`."""


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(Model):
    """One turn, as in TRL's conversational format. Images stand apart, in `images`."""

    role: Annotated[
        Literal["system", "user", "assistant"] | str, one_of("system", "user", "assistant")
    ]
    """Whose turn it is: `system`, `user` or `assistant`."""
    content: str | list[Part]
    """Its text, or its parts in order, of which some may be places of images."""

    @property
    def parts(self) -> list[TextPart | ImagePart]:
        if isinstance(self.content, str):
            return [TextPart(text=self.content)]
        return self.content

    @property
    def text(self) -> str:
        """Its text, without the images."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


def user_turn(prompt: str, images: int) -> Message:
    """The conversation that a bare `prompt` stands for: the images, then the text."""
    parts: list[Part] = [ImagePart() for _ in range(images)]
    return Message(role="user", content=[*parts, TextPart(text=prompt)])


def assistant_turn(text: str) -> Message:
    return Message(role="assistant", content=[TextPart(text=text)])
