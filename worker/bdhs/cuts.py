"""Where a sentence may be cut, and the yes/no swap that comes before the cut."""

import re

from service.words import ends_of_words

YES_NO = re.compile(r"\s*(Yes|yes|No|no)\b")
"""The paper's pattern, read with a word boundary: "Nobody" and "Note" are no answers."""

COUNTERPART = {"Yes": "No", "No": "Yes", "yes": "no", "no": "yes"}


def leading_yes_no(sentence: str) -> str | None:
    """The yes or no that the sentence starts with, as written."""
    match = YES_NO.match(sentence)
    return match[1] if match else None


def swap_yes_no(sentence: str) -> str:
    """The sentence with its leading yes or no replaced by the counterpart, case kept."""
    match = YES_NO.match(sentence)
    if match is None:
        raise ValueError(f"starts with neither yes nor no: {sentence!r}")
    return sentence[: match.start(1)] + COUNTERPART[match[1]] + sentence[match.end(1) :]


def cut_points(sentence: str) -> list[int]:
    """Positions at which the sentence may be cut, ascending.

    0 (nothing is given), then every word end that leaves at least one word to complete. Cuts fall
    before the space, where the text is tokenised as in the whole sentence, and never within a
    grapheme, such as a letter with its accents.
    """
    last = max((i for i, c in enumerate(sentence) if c.isalnum()), default=0)
    return [0, *(end for end in ends_of_words(sentence) if end <= last)]
