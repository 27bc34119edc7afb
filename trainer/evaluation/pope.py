"""POPE (Li et al. 2023, arXiv 2305.10355): yes/no questions about objects, half of them absent.

A file has a JSON object a line, {question_id, image, text, label}; published are one with random
absent objects, one with popular and one with those that often go with what is there (adversarial).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.data.example import InvalidDataset
from trainer.data.images import find_image, images_of_column
from trainer.data.rows import rows
from trainer.evaluation.ask import Question


@dataclass(frozen=True, slots=True)
class Probe:
    question: Question
    yes: bool
    """The true answer."""


@dataclass(frozen=True, slots=True)
class PopeMetrics:
    """Shares in [0, 1]; "yes" is the positive class."""

    questions: int
    accuracy: float
    precision: float
    recall: float
    f1: float
    yes: float
    """Share of the answers that say yes."""
    unclear: float
    """Share of the answers whose first word is neither yes nor no, or that POPE's rule reads
    against it ("NO", "No!"); all are read by the rule in the other figures."""


def read(file: Path, images: Sequence[Path], *, suffix: str = "") -> list[Probe]:
    """The questions of a file, each with `suffix` behind it. Raises: InvalidDataset."""
    probes: list[Probe] = []
    for row in rows(str(file)):
        try:
            if row.columns is None:
                raise ValueError(row.error)
            label = str(row.columns["label"]).strip().lower()
            if label not in ("yes", "no"):
                raise ValueError(f"its label is {label!r}, not yes or no")
            text, shown = row.columns["text"], images_of_column(row.columns["image"])
            if not isinstance(text, str) or len(shown) != 1:
                raise ValueError("it is not a text about one image")
            image = find_image(shown[0], [*images, row.folder])
            question = Question(text + suffix, image, row.place)
        except KeyError as error:
            raise InvalidDataset(f"{row.place} has no field {error}.") from error
        except ValueError as error:
            raise InvalidDataset(f"{row.place}: {error}") from error
        probes.append(Probe(question, label == "yes"))
    if not probes:
        raise InvalidDataset(f"{file} has no questions.")
    return probes


def says_yes(answer: str) -> bool:
    """As POPE's evaluation reads it: no, if up to the first full stop there is "no", "No" or "not"
    between spaces, commas aside."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return not {"No", "not", "no"} & set(words)


def pope_metrics(answers: Sequence[str], truths: Sequence[bool]) -> PopeMetrics:
    said = [says_yes(answer) for answer in answers]
    pairs = list(zip(said, truths, strict=True))
    hits = sum(yes and true for yes, true in pairs)
    precision = _share(hits, sum(said))
    recall = _share(hits, sum(truths))
    return PopeMetrics(
        questions=len(pairs),
        accuracy=_share(sum(yes == true for yes, true in pairs), len(pairs)),
        precision=precision,
        recall=recall,
        f1=_share(2 * precision * recall, precision + recall),
        yes=_share(sum(said), len(said)),
        unclear=_share(sum(_unclear(answer) for answer in answers), len(answers)),
    )


def names(files: Sequence[Path]) -> Iterator[str]:
    """`random` of `coco_pope_random.json`, and whole stems where those are not distinct."""
    short = [file.stem.rpartition("_")[2] for file in files]
    for file, name in zip(files, short, strict=True):
        yield name if short.count(name) == 1 else file.stem


def _unclear(answer: str) -> bool:
    """Whether the answer's first word is neither yes nor no, or the rule reads the other one."""
    word = re.match(r"\W*(yes|no)\b", answer, re.IGNORECASE)
    return word is None or (word[1].lower() == "yes") != says_yes(answer)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
