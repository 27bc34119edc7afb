"""Where sentences begin and end.

The paper completes a sentence "up to the first full stop"; read here as the end of the sentence by
the same rules that split the reference, so that "3.5" and "Dr. Smith" end nothing.

The rules look at a text from a sentence's start to a little behind its end, and decide nothing
before they have seen that: so a text that grows token by token is split as the whole one is, and a
policy that writes the reference gives back the reference.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import regex
from sentencex import segment  # type: ignore[import-untyped]

LANGUAGE = "en"
"""sentencex's rules for English know its abbreviations and initials. Full stops of other scripts
end sentences by themselves."""

CLOSING = r"[\p{Pe}\p{Pf}\"'*_~`]"
"""Quotes, brackets and Markdown that belong to the sentence that ends before them."""

WIDE = "。！？｡．"
"""Full stops behind which no space is written."""

COMMAS = ",;:，、；："
"""Before these, a quote ended and not the sentence."""

SPACE = r"\s\x1c-\x1f"
"""As `str.isspace` has it."""

LINES = r"[\n\r\v\f\x85\u2028\u2029]"
LINE_BREAK = regex.compile(rf"\r\n|{LINES}")

CANDIDATE = regex.compile(rf"(?P<stops>[\p{{STerm}}…]++){CLOSING}*+|{LINES}")
"""Where a sentence may end, before white space or the next character. This is looked for after
every token, so spaces between words are none."""

BEHIND_BLANKS = regex.compile(rf"[^{SPACE}]")

ITEM = regex.compile(r"[-*+•‣◦–—>|]\s|\(?\d{1,3}[.)]\s|\(?[A-Za-z][.)]\s|#{1,6}\s")
"""What makes a line an item of a list, a heading, a row."""

ITEM_ALONE = regex.compile(
    r"[\W_]*(?:(?:Step|Part|Item|Section|Chapter|Figure|Table)\s+)?(?:\d{1,3}|[A-Za-z]|[ivx]+)"
    r"[.)]+[*_]*"
)
"""The number of an item, of which the text is still to come."""

UNIT = regex.compile(r"\d ?\p{Ll}[\p{Ll}.]*$")
"""An abbreviation behind a number: "5 p.m", "3.5 m"."""

BEFORE_NUMBERS = frozenset({"approx", "ca", "max", "min", "resp"})
"""Abbreviations that sentencex has not, where a number follows."""

WINDOW = 40
"""Characters before a full stop that say whether it is one: its word, and the one before."""

UNDECODED = "\ufffd"
"""What stands for bytes of a character that is not whole yet, at the end of what is written."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """Characters `start` to `end` (exclusive) of a text, without the white space around them."""

    start: int
    end: int


def split(text: str) -> list[Sentence]:
    """The sentences of a text, in order; what lies between them is white space."""
    sentences = [Sentence(start, end) for start, end, _ in _ended(text.rstrip(UNDECODED))]
    start = sentences[-1].end if sentences else 0
    rest = text[start:].strip()
    if rest:
        start += len(text[start:]) - len(text[start:].lstrip())
        sentences.append(Sentence(start, start + len(rest)))
    return sentences


def sentence_end(prefix: str, continuation: str) -> int | None:
    """How many characters of `continuation` finish the sentence that `prefix` begins.

    None while the sentence may go on: a full stop ends it only once something stands behind it
    ("3." may become "3.5"). The white space after the sentence does not count.
    """
    text = (prefix + continuation).rstrip(UNDECODED)
    ends = (end for _, end, _ in _ended(text) if end > len(prefix))
    end = next(ends, None)
    return None if end is None else end - len(prefix)


def _ended(text: str) -> Iterator[tuple[int, int, int]]:
    """Start and end of each sentence that has ended, and where the next one starts."""
    start = following = len(text) - len(text.lstrip())
    for match in CANDIDATE.finditer(text, start):
        if match.start() < following:
            continue  # of white space that was looked at
        end, stops = match.end(), match["stops"] or ""
        if not stops:
            end = len(text[start : match.start()].rstrip()) + start
        behind = BEHIND_BLANKS.search(text, match.end())
        if behind is None:
            return  # what comes next will say
        following = behind.start()
        if following == match.end() and stops:
            ends = stops[-1] in WIDE and text[following] not in COMMAS
        else:
            ends = _ends_at(text, start, end, following, stops)
        if ends is None:
            return
        if ends:
            yield start, end, following
            start = following


def _ends_at(text: str, start: int, end: int, following: int, stops: str) -> bool | None:
    """Whether the sentence from `start`, with these stops at its end, if any, ends before the white
    space from `end` to `following`.

    None: the text ends too early to tell.
    """
    breaks = len(LINE_BREAK.findall(text, end, following))
    if breaks > 1:
        return True
    if breaks:
        item = ITEM.match(text, following, partial=True)
        if item is not None:
            return None if item.partial else True
    if not stops:
        return False
    if stops[-1] in WIDE:
        return True
    if text[following].islower():
        return False
    before = text[max(start, end - WINDOW) : end]
    if end - start <= WINDOW and ITEM_ALONE.fullmatch(before):
        return False
    if stops != ".":
        return True
    words = " ".join(before[: before.rindex(".")].split()[-2:]) if "." in before else ""
    if text[following].isnumeric() and words.rpartition(" ")[2].casefold() in BEFORE_NUMBERS:
        return False
    if UNIT.search(words):  # what follows is no small letter
        return True
    return _is_full_stop(words, text[following] if text[following].isalnum() else "T")


@lru_cache(4096)
def _is_full_stop(words: str, following: str) -> bool:
    """Whether the stop behind these words ends a sentence before this character, by sentencex."""
    bare = regex.sub(rf"{CLOSING}|\p{{Ps}}", " ", words)
    word = following if following.isnumeric() else f"{following}here"  # a letter is an initial
    pieces = cast(list[str], segment(LANGUAGE, f"{bare}. {word}"))
    return len(pieces) > 1 and pieces[-1].strip() == word
