"""What came of a job that could make a pair, and which texts are no preference."""

from enum import StrEnum


class Outcome(StrEnum):
    """What came of a job that could make a pair, or of a pair of a data set."""

    pair = "pair"
    """A pair was made and, with a `run`, appended to its log."""
    same = "same"
    """Both sides say the same, white space aside."""
    empty = "empty"
    """A side has nothing that can be read."""
    similar = "similar"
    """At or above ε_s after the last iteration, and the run drops those."""
    tie = "tie"
    """The annotator preferred none."""
    unreadable = "unreadable"
    """Nor were all of the annotator's verdicts readable."""
    filtered = "filtered"
    """Beyond a bound of the run's filters."""


def outcome_of_texts(chosen: str, rejected: str) -> Outcome:
    """`pair`, or why two texts are no preference: `empty` or `same`."""
    sides = visible(chosen), visible(rejected)
    if not all(sides):
        return Outcome.empty
    return Outcome.same if sides[0] == sides[1] else Outcome.pair


def visible(text: str) -> str:
    """The text without white space and what else cannot be seen (zero-width spaces, controls)."""
    unseen = {ord(c): None for c in set(text) if c.isspace() or not c.isprintable()}
    return text.translate(unseen)
