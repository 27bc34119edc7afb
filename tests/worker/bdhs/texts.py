"""Texts of every kind that answers have: lists, quotes, numbers, abbreviations, every script."""

from hypothesis import strategies as st

SPACELESS = {
    "Thai": "กขคงจฉชซ",
    "Lao": "ກຂຄງຈສຊຍ",
    "Khmer": "កខគឃងចឆជ",
    "Burmese": "ကခဂဃငစဆဇ",
    "Han": "一只猫狗的桌",
    "Han, extension B": "\U00020000\U00020001\U00020002",
    "hiragana": "あいうえお",
    "katakana": "アイウエオ",
    "half-width kana": "ｱｲｳｴｵ",
}
"""Letters without marks, by script."""

WORDS = [
    *("a", "It", "red", "Yes", "no", "cat", "Dr", "e.g", "i.e", "approx", "etc", "U.S", "p.m", "J"),
    *("3", "3.5", "1", "12", "No", "Fig", "Step", "Café", "Cafe\u0301", "don't", "x-ray", "ﬁ", "İ"),
    *("चित्र", "है", "هناك", "دائرة", "แมวนั่ง", "ឆ្មា", "ແມວ", "ကျွန်ုပ်", "一只猫", "ケーキ", "ｶﾞ"),
    *(
        "\U00020000",
        "👨\u200d👩\u200d👧",
        "😀",
        "\u200b",
        "\ufeff",
        "\ufffd",
        "\0",
        "한국어",
        "Кот",
    ),
]
STOPS = [
    *(
        ".",
        ".",
        ".",
        "!",
        "?",
        "...",
        "…",
        "?!",
        ",",
        ":",
        ";",
        "。",
        "！",
        "？",
        "｡",
        "．",
        "।",
        "؟",
    ),
    *("۔", "။", "።", ".)", '."', ".”", "。」", "。”", ".**", ".*", ".’", "!»", ".'", "`.", "—"),
]
GAPS = [
    *(" ", " ", " ", "", "  ", "\n", "\n\n", "\r\n", "\r\n\r\n", "\t", "\u00a0", "\u2028", "\x85"),
    *("\n- ", "\n* ", "\n1. ", "\n2) ", "\n### ", "\n| ", "\n   - ", "\n-", "\n1", "\n1.", " - "),
    *(" “", ' "', " (", "「", " **", " *", " _", "\r", "\x0b", "\x1c", "\u3000"),
]
STARTS = ["", "", "1. ", "- ", "**", '"', "### ", " ", "\n", "\ufeff", "1. **"]


@st.composite
def texts(draw: st.DrawFn, *, max_words: int = 16) -> str:
    """One that is made of such pieces, or any at all."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.text(max_size=30))
    pieces = st.tuples(
        st.sampled_from(WORDS), st.sampled_from(["", "", *STOPS]), st.sampled_from(GAPS)
    )
    drawn = draw(st.lists(pieces, min_size=1, max_size=max_words))
    return draw(st.sampled_from(STARTS)) + "".join(map("".join, drawn))


@st.composite
def token_splits(draw: st.DrawFn, text: str) -> list[str]:
    """The text as it grows: its starts, each some characters longer, to the whole."""
    cuts = draw(st.sets(st.integers(1, max(1, len(text)))))
    return [text[:cut] for cut in sorted(cuts | {len(text)}) if cut <= len(text)]
