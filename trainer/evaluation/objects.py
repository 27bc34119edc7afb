"""Which objects an image has, and which a text mentions."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.data.example import InvalidDataset
from trainer.evaluation.synonyms import IRREGULAR, NO_OBJECTS, SYNONYMS


def annotations(file: Path) -> dict[str, frozenset[str]]:
    """The objects of each image, by the image's name.

    A .jsonl file has an object a line, {image, objects: [name, …]}. A .json file is COCO's
    instances: `images`, `annotations` and `categories`, streamed. Raises: InvalidDataset.
    """
    from ijson import JSONError

    try:
        found = _of_lines(file) if file.suffix == ".jsonl" else _of_coco(file)
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
    found: dict[str, frozenset[str]] = {}
    with file.open() as lines:
        for line in lines:
            if line.strip():
                row = json.loads(line)
                found[row["image"]] = frozenset(map(str, row["objects"]))
    return found


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
        self._objects: dict[str, str | None] = dict.fromkeys(NO_OBJECTS)
        for name in objects:
            for word in (name, *table.get(name, ())):
                for form in _forms(word.lower()):
                    self._objects[form] = name
        longest = sorted(self._objects, key=len, reverse=True)  # "teddy bear" before "bear"
        self._pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, longest))})\b")

    def mentions(self, text: str) -> list[str]:
        """The objects that a text names, in order, each as often as it does."""
        found = (self._objects[match[0]] for match in self._pattern.finditer(_plain(text)))
        return [name for name in found if name is not None]


def read_synonyms(file: Path) -> dict[str, list[str]]:
    """A JSON object of lists of words, by object. Raises: InvalidDataset."""
    try:
        table = json.loads(file.read_text())
        return {str(name): [str(word) for word in words] for name, words in table.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
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
