"""Words of a text, in any script."""

import re

SPACELESS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Kana and Han, as part of a regular expression: written without spaces, so every character counts
as a word."""

WORD = re.compile(rf"[{SPACELESS}]|[^\W{SPACELESS}]+")


def words(text: str) -> list[str]:
    """The text's words, without punctuation, case aside."""
    return [word.casefold() for word in WORD.findall(text)]
