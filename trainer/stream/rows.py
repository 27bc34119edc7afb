"""A row of an optimizer step: a pair with what TRL needs of it; and where rows come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from service import images
from service.schemas import Message, Pair


@dataclass(frozen=True, slots=True)
class Row:
    """A pair with its images' bytes."""

    pair: Pair
    images: list[bytes]
    staleness: int | None
    """Weight versions that it lagged behind when it was leased; None: not policy-made."""
    weight: float = 1.0
    """Of its loss, where the mean over an optimizer step's rows is 1."""

    def columns(self) -> dict[str, Any]:
        """TRL's conversational vision preference row; the images are PIL, RGB."""
        return {
            "prompt": _turns(self.pair.prompt),
            "chosen": _turns(self.pair.chosen),
            "rejected": _turns(self.pair.rejected),
            "images": [images.decode_rgb(content) for content in self.images],
        }


class RowSource(Protocol):
    """Where the steps' rows come from, in the process that leases."""

    def draw(self, count: int) -> list[Row]:
        """The rows of so many pairs: one each, or for all the same number. Raises: Stopped."""
        ...


def _turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [
        {"role": message.role, "content": [part.model_dump() for part in message.parts]}
        for message in messages
    ]
