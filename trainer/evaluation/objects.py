"""Which objects an image has, and which a text mentions."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from trainer.data.example import InvalidDataset, shortened
from trainer.data.rows import rows
from trainer.evaluation.synonyms import (
    BALL,
    IRREGULAR,
    NO_OBJECTS,
    OF_BALL_GAMES,
    PERSON,
    QUALIFIERS,
    SYNONYMS,
)


def annotations(file: Path) -> dict[str, frozenset[str]]:
    """The objects of each image, by the image's name.

    A .jsonl file has an object a line, {image, objects: [name, …]}. A .json file is COCO's
    instances: `images`, `annotations` and `categories`, streamed. Raises: InvalidDataset.
    """
    from ijson import JSONError

    if file.suffix == ".jsonl":
        found = _of_lines(file)
        if not found:
            raise InvalidDataset(f"{file} has no images.")
        return found
    try:
        found = _of_coco(file)
    except OSError as error:
        raise InvalidDataset(f"{file} cannot be read: {error}") from error
    except (KeyError, TypeError, ValueError, JSONError) as error:
        raise InvalidDataset(
            f"{file} is neither COCO's instances (.json) nor lines of {{image, objects}} (.jsonl): "
            f"{type(error).__name__} {error}"
        ) from error
    if not found:
        raise InvalidDataset(f"{file} has no images.")
    return found


def _of_lines(file: Path) -> dict[str, frozenset[str]]:
    """Raises: InvalidDataset."""
    found: dict[str, frozenset[str]] = {}
    for row in rows(str(file)):
        if row.columns is None:
            raise InvalidDataset(f"{row.place} {row.error}")
        image, objects = row.columns.get("image"), row.columns.get("objects")
        if not isinstance(image, str) or not _is_names(objects):
            raise InvalidDataset(
                f"{row.place} is not {{image, objects: [name, …]}}: `image` must be a name and "
                f"`objects` a list of names, not {shortened(json.dumps(objects), 80)}"
            )
        found[image] = found.get(image, frozenset()) | frozenset(objects)
    return found


def _is_names(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _of_coco(file: Path) -> dict[str, frozenset[str]]:
    categories = {c["id"]: c["name"] for c in _items(file, "categories")}
    objects: dict[int, set[str]] = defaultdict(set)
    for annotation in _items(file, "annotations"):
        objects[annotation["image_id"]].add(categories[annotation["category_id"]])
    return {i["file_name"]: frozenset(objects[i["id"]]) for i in _items(file, "images")}


def _items(file: Path, name: str) -> Iterable[dict[str, Any]]:
    """COCO's files have a few hundred MB: one list at a time, one entry in memory."""
    import ijson

    with file.open("rb") as content:
        yield from ijson.items(content, f"{name}.item")


class Vocabulary:
    """Objects, and the words by which texts name them."""

    def __init__(
        self, objects: Iterable[str], synonyms: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """`synonyms`: by object; instead of the table of COCO's objects in `synonyms.py`."""
        table = SYNONYMS if synonyms is None else synonyms
        objects = frozenset(objects)
        self._objects: dict[str, str | None] = {}
        self._add(None, NO_OBJECTS)
        for name in objects:
            self._add(name, (name, *table.get(name, ())))
        for qualifiers, names in QUALIFIERS:
            for name in names:
                nouns = (name, *table.get(name, ()))
                phrases = [f"{qualifier} {noun}" for qualifier in qualifiers for noun in nouns]
                self._add(name if name in objects else None, phrases)
        balls = (BALL, *table.get(BALL, ()))
        self._add(PERSON if PERSON in objects else None, [f"{ball} player" for ball in balls])
        self._add(None, [f"{ball} {what}" for ball in balls for what in OF_BALL_GAMES])
        longest = sorted(self._objects, key=len, reverse=True)  # "teddy bear" before "bear"
        self._pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, longest))})\b")

    def _add(self, name: str | None, words: Iterable[str]) -> None:
        """`name`: None: these words name no object."""
        for word in words:
            self._objects |= dict.fromkeys(_forms(word.lower()), name)

    def mentions(self, text: str) -> list[str]:
        """The objects that a text names, in order, each as often as it does."""
        found = (self._objects[match[0]] for match in self._pattern.finditer(_plain(text)))
        return [name for name in found if name is not None]


def read_synonyms(file: Path) -> dict[str, list[str]]:
    """A JSON object of lists of words, by object. Raises: InvalidDataset."""
    try:
        table = json.loads(file.read_text())
        if not all(map(_is_names, table.values())):
            raise ValueError("a value is no list of words")
        return table
    except (OSError, ValueError, AttributeError) as error:
        raise InvalidDataset(
            f"{file} is no JSON object of lists of words, by object: {error}"
        ) from error


def _plain(text: str) -> str:
    return re.sub(r"[\s\-_]+", " ", text.lower())


def _forms(word: str) -> set[str]:
    """The word and its plural."""
    word = _plain(word)
    head, _, last = word.rpartition(" ")
    plural = IRREGULAR.get(last)
    if plural is None:
        if re.search(r"(s|x|z|ch|sh)$", last):
            plural = f"{last}es"
        elif re.search(r"[^aeiou]y$", last):
            plural = f"{last[:-1]}ies"
        else:
            plural = f"{last}s"
    return {word, f"{head} {plural}".strip()}
