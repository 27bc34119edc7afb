"""What all requests begin with: a prompt or a conversation, its images, the caller's metadata."""

import json
from typing import Annotated, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from service.schemas.base import Model
from service.schemas.conversation import ImagePart, Message, TextPart, user_turn

MAX_METADATA_CHARS = 2**16
"""Of a request's metadata: names and texts; any other value counts as one."""

MAX_TEXT_CHARS = 2**20
"""Of one text, whatever a service's settings allow for all."""

Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]


def _characters(value: JsonValue) -> int:
    match value:
        case dict():
            return sum(len(name) + _characters(inner) for name, inner in value.items())
        case list():
            return sum(map(_characters, value))
        case str():
            return len(value)
        case _:
            return 1


class PromptRequest(Model):
    """What asks something of a model, or records that it was asked: text, perhaps with images."""

    prompt: Text | None = None
    """The user's text. Either this or `messages`."""
    messages: list[Message] | None = Field(default=None, min_length=1)
    """A conversation that ends with a user turn. Either this or `prompt`."""
    images: list[str] = []
    """Each a data URI, bare base64, or `sha256:<hex>` of an image that is stored already."""
    metadata: dict[str, JsonValue] = {}
    """Handed through to the job and the pair, unread; 65,536 characters of names and values at
    most."""

    @field_validator("metadata")
    @classmethod
    def _small_and_finite(cls, metadata: dict[str, JsonValue]) -> dict[str, JsonValue]:
        length = _characters(metadata)
        if length > MAX_METADATA_CHARS:
            raise ValueError(
                f"has {length} characters of names and values; at most {MAX_METADATA_CHARS} are "
                "kept. Keep large data where the caller is, under an id"
            )
        json.dumps(metadata, allow_nan=False)  # FastAPI forgets `allow_inf_nan` inside JsonValue
        return metadata

    @model_validator(mode="after")
    def _one_conversation(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either `prompt` or `messages`, and not both")
        if self.prompt is not None and not self.prompt.strip():
            raise ValueError("`prompt` is empty")
        if self.messages is not None:
            if self.messages[-1].role != self._last_role:
                raise ValueError(f"the last of `messages` must be of role {self._last_role}")
            places = sum(isinstance(p, ImagePart) for m in self.messages for p in m.parts)
            if places != len(self.images):
                raise ValueError(
                    f"`messages` has {places} image parts, and `images` has {len(self.images)}"
                )
        return self

    @property
    def _last_role(self) -> str:
        """Whose turn `messages` ends with."""
        return "user"

    @property
    def conversation(self) -> list[Message]:
        """`messages`, or what `prompt` stands for."""
        if self.messages is not None:
            return self.messages
        assert self.prompt is not None  # the validator's promise
        return [user_turn(self.prompt, len(self.images))]

    @property
    def length(self) -> int:
        """Characters of `texts`; a token that is given by its id counts as one."""
        return sum(map(len, self.texts))

    @property
    def texts(self) -> list[str]:
        """All that a model might have to read."""
        if self.prompt is not None:
            return [self.prompt]
        return [p.text for m in self.conversation for p in m.parts if isinstance(p, TextPart)]
