"""What a format is, and what the formats share."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.schemas import ImagePart, Message, Pair

Row = dict[str, Any]

PLACEHOLDER = "<image>"
"""Stands in a text where a picture belongs, in formats whose texts have no parts."""


class LeftOut(Exception):
    """The format cannot say what the pair says. `str` of it is the reason, the same for all pairs
    of a kind, so that it can be counted."""


Shards = Sequence[tuple[str, int]]
"""Name, below the folder of an export, and number of rows of each file of rows."""


@dataclass(frozen=True)
class Format:
    rows: Callable[[Pair, Sequence[Any]], list[Row]]
    """A pair's rows, with one image for each of the pair's: a file's name below the folder of the
    export or, in tables, `{bytes, path}`. Raises: LeftOut."""
    usage: str
    """How its trainer is started on it, in Markdown. `{out}`: the folder; `{name}`: of the data
    set."""
    features: Callable[[], dict[str, Any]] | None = None
    """Columns of a table with the pictures in it; None: lines of JSON, and pictures in files."""
    index: Callable[[str, Path, Shards], dict[str, Any]] = lambda name, out, shards: {}
    """Files that its trainer wants beside the rows, with their JSON: of a data set's name, its
    folder and its files of rows."""

    @property
    def suffix(self) -> str:
        """Of its files of rows."""
        return "jsonl" if self.features is None else "parquet"


def check_images(pair: Pair) -> None:
    """Raises: LeftOut, if the prompt has not one place for each image, or a side is not one turn of
    text."""
    places = sum(isinstance(part, ImagePart) for turn in pair.prompt for part in turn.parts)
    if places != len(pair.images):
        raise LeftOut("the prompt has not one place for each image")
    for side in (pair.chosen, pair.rejected):
        if len(side) != 1 or any(isinstance(part, ImagePart) for part in side[0].parts):
            raise LeftOut("a side is not one turn of text")


def check_texts(pair: Pair, tags: Collection[str]) -> None:
    """Raises: LeftOut, if a text holds what the format's trainer would replace."""
    for turn in (*pair.prompt, *pair.chosen, *pair.rejected):
        text = text_with_places(turn, place="\0")
        for tag in tags:
            if tag in text:
                raise LeftOut(f"a text holds `{tag}`, which the trainer would replace")


def check_turns(pair: Pair) -> None:
    """Raises: LeftOut, if there is more than a system turn of text and then user and assistant in
    turn, the user last."""
    turns = list(pair.prompt)
    system = turns.pop(0) if turns and turns[0].role == "system" else None
    if system is not None and any(isinstance(part, ImagePart) for part in system.parts):
        raise LeftOut("an image in the system turn")
    wanted = [("user", "assistant")[number % 2] for number in range(len(turns))]
    if len(turns) % 2 == 0 or [turn.role for turn in turns] != wanted:
        raise LeftOut("the turns are not user and assistant by turns, the user last")


def text_with_places(turn: Message, place: str = PLACEHOLDER) -> str:
    """A turn as one text, with `place` where its images are."""
    return "".join(place if isinstance(part, ImagePart) else part.text for part in turn.parts)


def rest_of(pair: Pair) -> Row:
    """What lines of JSON have beside their trainer's own columns. Of a fixed type each, whatever
    the pair lacks: readers guess types from the first rows, and stop at a later one."""
    rest = pair.model_dump_json(exclude={"prompt", "images", "chosen", "rejected"})
    return {"pair_id": pair.pair_id, "method": pair.method, "pair": rest}
