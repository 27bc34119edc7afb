"""Words of a text, in any script."""

from collections.abc import Iterator

import regex

SPACELESS = r"[\p{Line_Break=SA}\p{Han}\p{scx=Hiragana}\p{scx=Katakana}]"
"""Letters of scripts that are written without spaces: Han and kana, in all their widths; Thai, Lao,
Khmer, Burmese and their like (Unicode's line break class SA). Each of them counts as a word, with
the marks that belong to it."""

GRAPHEME = regex.compile(r"\X")
SPACELESS_LETTER = regex.compile(SPACELESS)
WORD = regex.compile(rf"(?V1){SPACELESS}\p{{M}}*+|[\w--{SPACELESS}](?:[\w--{SPACELESS}]|\p{{M}})*+")


def words(text: str) -> list[str]:
    """The text's words, without punctuation, case aside."""
    return [word.casefold() for word in WORD.findall(text)]


def ends_of_words(text: str) -> Iterator[int]:
    """Positions at which a word ends with its punctuation: before white space, and on both sides of
    a letter of a script without spaces. Never within a grapheme."""
    in_word = False
    for grapheme in GRAPHEME.finditer(text):
        first = grapheme[0][0]
        alone = SPACELESS_LETTER.match(first) is not None
        if in_word and (alone or first.isspace()):
            yield grapheme.start()
        if alone:
            yield grapheme.end()
        in_word = not alone and not first.isspace()
    if in_word:
        yield len(text)
