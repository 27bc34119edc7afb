"""How a judge's answer is read: its verdict in one of the ways in which judges put it, or nothing.

Every sentence that states a verdict counts, wherever it stands, and all of them must state the
same. What is negated, hedged, asked, quoted or said of one aspect alone states none. So an answer
that is not understood is unreadable, and not a verdict of somebody else.
"""

import json
import re
import unicodedata

from service.annotator import Choice, Verdict

_NOUN = (
    r"(?:responses?|answer|caption|description|assistant|model|option|candidate|output|reply|text)"
)
_NUMBER = r"(?:no\.? ?|number |nr\.? ?|# ?)?[\[(]?"
_NAMES = [
    re.compile(
        rf"\b(?:the )?(?:{_NOUN} ?{_NUMBER}(?:{digit}|{letter}|{word})\b[\])]?"
        rf"|(?:{ordinal}|{digit}{suffix}) (?:{_NOUN}|one)\b|(?<=\bthe ){ordinal}\b)"
    )
    for digit, letter, word, ordinal, suffix in (
        ("1", "a", "one", "first", "st"),
        ("2", "b", "two", "second", "nd"),
    )
]
"""What judges call the responses; in what follows they are R1 and R2."""
_MENTIONED_BEFORE = re.compile(rf"\b(?:the )?(former|latter)\b(?: (?:{_NOUN}|one)\b)?")

_ADVERBS = (
    r"(?:(?:clearly|much|only|slightly|overall|still|therefore|thus|marginally|far|a bit|a little"
    r"|definitely|certainly|strongly) )*"
)
_OPENERS = (
    r"(?:(?:so|thus|therefore|hence|overall|and|but|then|finally|ultimately|clearly|on balance"
    r"|in (?:conclusion|summary|short|sum|the end|total)|to (?:conclude|summari[sz]e|sum up)"
    r"|(?:reason(?:ing)?|explanation|rationale|analysis|justification):|in my (?:opinion|view)"
    r"|based on [^,:]*(?=,)|all (?:in all|things considered)|as a result"
    r"|for (?:this|that|these|those) reasons?"
    r"|i (?:would )?(?:think|believe|find|say|conclude|judge)(?: that)?|it is clear that),? )*"
)
_REASON = (
    r"(?:(?:(?:since|because|given that|as|while|although|though|both|neither|r[12]) "
    r"(?!(?:for|to|far|regards) )(?:(?!\b(?:if|when|unless|whether|says?|claims?|states?|writes?"
    r"|better|best|worse|prefer\w*|may|might|could|would)\b)[^:])*?, (?:so |but |and )?)?)"
)
"""A clause in front of the verdict."""
_LABEL_NAME = (
    rf"(?:the |my |our )?(?:final |overall |clear )*(?:verdict|winner|choice|decision|judge?ment"
    rf"|preference|conclusion|answer|response|result|pick|better|best|preferred"
    rf"|(?:better|best|preferred|superior|winning|preferable) (?:{_NOUN}|one)"
    r"(?: of the two)?)"
)
_LABEL = rf"{_LABEL_NAME}(?: is:?|:|=| [–—-]| ?->| ?→) ?"
_BEST = (
    r"(?:more \w+ and (?:therefore|thus|so|hence) )?(?:the |my )?"
    rf"(?:better|best|preferable|preferred|superior|winner|pick)(?: (?:{_NOUN}|one|choice))?"
)
_TIE = (
    r"(?:(?:it is|it's|this is|i call it|i would call it|result is) )?"
    r"(?:a )?(?:clear )?(?:tie|draw)"
    rf"|neither|both|equal|no preference|no (?:clear )?winner|(?:they|both|both {_NOUN}"
    rf"|the (?:two )?{_NOUN}) are (?:tied|equal|equally (?:good|bad))"
    rf"|neither (?:(?:{_NOUN}|one|of them|of the two|r1 nor r2|r2 nor r1) )?is better"
)
_AGAIN = r".*\b(?:better|best|worse|prefer\w*|superior|wins?)\b"
_END = (
    r"(?: overall| here| of the two)?(?:$|,? (?:because|since|as|due to|although|though|even though"
    r"|while|whereas)\b|(?: ?[,:;(]| [–—-])(?! ?(?:r[12]|but|however|yet|except|only|if|when|unless"
    r"|not?|false|or|in|on|for|at|with|regarding)\b)(?=.))"
    rf"(?!{_AGAIN}).*"
)
"""After the verdict: nothing, or a reason that takes nothing back."""
_STATEMENT = re.compile(
    rf"{_OPENERS}{_REASON}{_OPENERS}(?:{_LABEL})?(?:"
    rf"r(?P<better>[12]) {_ADVERBS}(?:is {_ADVERBS}{_BEST}|wins)"
    r"(?: (?:than|over|to) (?:r(?P<than>[12])"
    rf"|the other(?: (?:{_NOUN}|one))?))?"
    r"|r(?P<worse>[12]) is "
    rf"{_ADVERBS}worse(?: than r(?P<nor>[12]))?"
    rf"|i {_ADVERBS}(?:would )?(?:prefer|choose|pick|select|vote for|go with|favou?r)"
    r" r(?P<liked>[12])(?: (?:over|to) r(?P<over>[12]))?"
    rf"|(?P<tie>{_TIE})"
    rf"){_END}"
)
_LABELLED = re.compile(rf"{_OPENERS}{_LABEL}(?:r(?P<name>[12])|[\[(]*(?P<bare>[12ab])[\])]*){_END}")
_ALONE = re.compile(rf"{_OPENERS}r([12])(?:,? (?:because|since|as)\b(?!{_AGAIN}).*)?")
_LETTER = re.compile(r"[\[({]*([12ab])[\])}]*|([ab])\.")
_LATEX = re.compile(r"\\(?:boxed|text|textbf)\{([^{}]*)\}")
_RETRACTED = re.compile(
    r"(?:^|[.!?] )(?:no, )?"
    r"(?:wait|on second thoughts?|scratch that|correction|actually, no|i was wrong)\b",
    re.M,
)


MAX_CHARACTERS = 4000
"""Of an answer that is read; a longer one is not what judges were asked for."""


def parse_verdict(text: str) -> Verdict:
    """The one verdict that the judge's sentences state; `unreadable`, if they state none, or
    several that differ."""
    return Verdict("unreadable" if len(text) > MAX_CHARACTERS else _choice(_plain(text)), text)


def _choice(text: str) -> Choice:
    if "<think>" in text or _RETRACTED.search(text):
        return "unreadable"
    stated: set[Choice] = set()
    alone: set[Choice] = set()
    lines = text.splitlines()
    for number, line in enumerate(lines):
        heading = line.startswith("#")
        line = re.sub(r"^(?:[#>•|-]|\d[.)](?= ))[\s#>•|-]*", "", line)
        for sentence in re.split(r"(?<=[.!?;]) +", line):
            stated |= _stated(sentence.rstrip(".!; "))
            if not heading and (name := _ALONE.fullmatch(sentence.rstrip(".!; "))):
                alone.add(_named(name[1]))
        if number in (0, len(lines) - 1) and (letter := _LETTER.fullmatch(line)):
            alone.add(_named(letter[1] or letter[2]))
    if not {"first", "second"} <= alone:  # otherwise they are headings of what is said of each
        stated |= alone
    return stated.pop() if len(stated) == 1 else "unreadable"


def _stated(sentence: str) -> set[Choice]:
    """What a sentence states beyond a name that stands alone: one choice or none."""
    if labelled := _LABELLED.fullmatch(sentence):
        return {_named(labelled["name"] or labelled["bare"])}
    found = _STATEMENT.fullmatch(sentence)
    if found is None:
        return set()
    if found["tie"]:
        return {"tie"}
    better, than = found["better"] or found["liked"] or found["nor"], found["than"] or found["over"]
    if worse := found["worse"]:
        better, than = better or ("2" if worse == "1" else "1"), worse
    return set() if better is None or better == than else {_named(better)}


def _named(name: str) -> Choice:
    return "first" if name in "1a" else "second"


def _plain(text: str) -> str:
    """In small letters and without markup: a line a thought, with R1 and R2 for the responses."""
    text = unicodedata.normalize("NFKC", text).lower()
    text = text.replace("’", "'").replace("i'd ", "i would ")
    text = re.sub(r"<think>.*?</think>", "\n", text, flags=re.S)
    text = _json_as_lines(_LATEX.sub(r"\1", _LATEX.sub(r"\1", text)))
    text = re.sub(r"</?(?!think)[a-z_]+>", "\n", text).replace("_", " ")
    text = re.sub(r"[*`\"“”„]|(?<!\w)'|'(?!\w)", "", text)
    for number, names in enumerate(_NAMES, start=1):
        text = names.sub(f"r{number}", text).replace(f"the r{number}", f"r{number}")
    text = _MENTIONED_BEFORE.sub(_resolved, text)
    text = "\n".join(line for raw in text.splitlines() if (line := " ".join(raw.split())))
    return re.sub(rf"^[# ]*({_LABEL_NAME}):?\n", r"\1: ", text, flags=re.M)


def _resolved(mention: re.Match[str]) -> str:
    """`the former` and `the latter` are R1 and R2, unless the text has named them the other way."""
    named = re.findall(r"\br[12]\b", mention.string[: mention.start()])
    order = [name for i, name in enumerate(named) if not i or named[i - 1] != name][-2:]
    if order in ([], ["r1", "r2"]):
        return "r1" if mention[1] == "former" else "r2"
    return mention[0]


def _json_as_lines(text: str) -> str:
    """The first JSON object of a text as lines of `key: value`."""
    for start in re.finditer(r"\{", text):
        try:
            found, end = json.JSONDecoder().raw_decode(text, start.start())
        except (ValueError, RecursionError):
            continue
        lines = [
            f"{key}: {value if isinstance(value, str) else json.dumps(value)}"
            for key, value in found.items()
        ]
        return "\n".join([text[: start.start()], *lines, text[end:]])
    return text
