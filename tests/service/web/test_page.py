import json
import re
import time
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from html.parser import HTMLParser
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from service.schemas import (
    BdhsTrace,
    ImageView,
    IterationTrace,
    Message,
    Pair,
    SentenceTrace,
    Span,
    assistant_turn,
    user_turn,
)
from service.web import ShownPair, render_pairs
from service.web.page import TextSegment, has_unlisted_text, text_segments

VOID = {"meta", "link", "img", "input"}
VIEWS = [
    ImageView(start=0, rows=4, columns=4, newline=False),
    ImageView(start=16, rows=4, columns=4, newline=True),
]
REFERENCE = "Yes, a red circle. It is on the left."
HOSTILE = (
    """</script></p><script>alert(1)</script><img src=x onerror=alert(1)>"'&amp;{{7*7}}{%x%}-->"""
)
LONG = "word " * 1000


def png() -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (56, 56), "red").save(buffer, "PNG")
    return buffer.getvalue()


PNG = png()


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    children: list["Element | str"] = field(default_factory=list["Element | str"])

    @property
    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text for c in self.children)

    @property
    def classes(self) -> list[str]:
        return (self.attributes.get("class") or "").split()

    def all(self, tag: str, kind: str | None = None) -> list["Element"]:
        found: list[Element] = []
        for child in self.children:
            if isinstance(child, Element):
                if child.tag == tag and (kind is None or kind in child.classes):
                    found.append(child)
                found += child.all(tag, kind)
        return found

    def one(self, tag: str, kind: str | None = None) -> "Element":
        (found,) = self.all(tag, kind)
        return found


class Tree(HTMLParser):
    """A strict tree: every element is closed where it must be."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]
        self.feed(html)
        self.close()
        assert self.open == [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def page(
    pairs: Sequence[ShownPair], title: str = "Pairs", summary: Sequence[tuple[str, str]] = ()
) -> Element:
    return Tree(render_pairs(pairs, title=title, summary=summary)).root


def card(shown: ShownPair) -> Element:
    return page([shown]).one("article")


def a_pair(**changes: Any) -> Pair:
    fields: dict[str, Any] = {
        "prompt": [user_turn("Is there a red circle?", 1)],
        "images": ["sha256:" + "0" * 64],
        "chosen": [assistant_turn(REFERENCE)],
        "rejected": [assistant_turn("No, a blue one. It is on top.")],
        "pair_id": "job-1",
        "run": "demo",
        "method": "bdhs-attention",
        "chosen_version": None,
        "rejected_version": 12,
        "rejected_spans": [Span(start=3, end=15), Span(start=21, end=29)],
        "similarity": 0.7123,
        "iterations": 2,
        "seed": 99,
        "created_at": datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC),
    }
    return Pair(**{**fields, **changes})


def iteration(kept: Sequence[int], **changes: Any) -> IterationTrace:
    fields: dict[str, Any] = {
        "guided": True,
        "kept": list(kept),
        "sentences": [
            sentence("No,", " a blue one.", swapped=True),
            sentence("It is", " on top.", finish_reason="length"),
        ],
        "text": "No, a blue one. It is on top.",
        "similarity": 0.7123,
    }
    return IterationTrace(**{**fields, **changes})


def sentence(
    prefix: str, completion: str, *, swapped: bool = False, finish_reason: str = "sentence"
) -> SentenceTrace:
    return SentenceTrace(
        prefix=prefix,
        completion=completion,
        swapped=swapped,
        finish_reason=finish_reason,
        seed=1,
        weight_versions=[],
    )


def a_trace(*iterations: IterationTrace, views: Sequence[ImageView] = VIEWS) -> BdhsTrace:
    return BdhsTrace(image_tokens=36, image_views=list(views), iterations=list(iterations))


def traced(*kept: Sequence[int], **changes: Any) -> ShownPair:
    return ShownPair(a_pair(**changes), PNG, a_trace(*map(iteration, kept)))


def facts(article: Element) -> dict[str, str]:
    rows = article.one("dl", "facts").all("div")
    return {row.one("dt").text: row.one("dd").text for row in rows}


# --- the page -----------------------------------------------------------------------------------


def test_the_page_holds_title_key_figures_legend_and_pairs() -> None:
    root = page([traced([3]), traced([4])], title="A run", summary=[("Pairs", "2"), ("Mean", "0")])
    assert root.one("title").text == root.one("h1").text == "A run"
    figures = root.one("dl", "figures").all("div")
    assert [(f.one("dt").text, f.one("dd").text) for f in figures] == [
        ("Pairs", "2"),
        ("Mean", "0"),
    ]
    assert len(root.one("ul", "legend").all("li")) == 3
    assert [a.attributes["id"] for a in root.all("article")] == ["pair-1", "pair-2"]
    assert root.one("html").attributes["lang"] == "en"


def test_no_pairs_are_said_to_be_none() -> None:
    root = page([])
    assert not root.all("article")
    assert not root.all("dl")
    assert root.one("p", "none").text == "There are no pairs to show yet."


def test_nothing_is_requested_and_only_our_style_and_script_are_let_through() -> None:
    root = page([traced([3])])
    links = [
        value
        for tag in ("img", "link", "script", "iframe", "a", "path", "svg")
        for element in root.all(tag)
        for name in ("src", "href", "srcset", "xlink:href")
        if (value := element.attributes.get(name))
    ]
    assert links
    assert all(link.startswith("data:") for link in links)
    style, script = root.one("style").text, root.one("script").text
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = (
        meta.attributes["content"] or ""
        for meta in root.all("meta")
        if meta.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    for content in (style, script):
        assert f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'" in policy


def test_tools_show_only_where_a_script_can_serve_them() -> None:
    assert "hidden" in page([traced([3])] * 2).one("div", "tools").attributes
    assert not page([traced([3])]).all("div", "tools")


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_keep_their_contrast(scheme: int) -> None:
    style = page([]).one("style").text
    palette = dict(re.findall(r"--([\w-]+): (#\w+);", style.split("@media")[scheme]))

    def luminance(colour: str) -> float:
        digits = "".join(2 * c for c in colour[1:]) if len(colour) == 4 else colour[1:]
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    def contrast(one: str, other: str) -> float:
        dark, light = sorted((luminance(palette[one]), luminance(palette[other])))
        return (light + 0.05) / (dark + 0.05)

    for ink in ("ink", "muted", "chosen", "rejected"):
        assert contrast(ink, "page") >= 4.5, ink
    assert contrast("ink", "mark") >= 7
    assert contrast("muted", "field") >= 4.5
    for line in ("focus", "mark-line"):
        assert contrast(line, "page") >= 3, line


def test_a_thousand_pairs_are_rendered_in_seconds() -> None:
    started = time.monotonic()
    root = page([traced([3, 20, 33], pair_id=f"job-{n}") for n in range(1000)])
    assert time.monotonic() - started < 30
    assert len(root.all("article")) == 1000
    assert all(image.attributes["loading"] == "lazy" for image in root.all("img"))
    assert "content-visibility: auto" in root.one("style").text


# --- a pair -------------------------------------------------------------------------------------


def test_a_pair_shows_where_it_comes_from() -> None:
    article = card(traced([1], [3, 17]))
    assert article.one("code", "id").text == "job-1"
    assert article.one("small", "method").text == "bdhs-attention"
    assert article.one("time").attributes["datetime"] == "2026-05-04T03:02:01+00:00"
    assert facts(article) == {
        "Similarity": "0.712",
        "Iterations": "2",
        "Last iteration": "guided",
        "Chosen by": "data set",
        "Rejected by": "version 12",
        "Seed": "99",
        "Run": "demo",
    }


def test_model_written_spans_are_marked_exactly() -> None:
    rejected = card(traced([3])).one("section", "rejected").one("p", "text")
    assert [c if isinstance(c, str) else (c.tag, c.text) for c in rejected.children] == [
        "No,",
        ("mark", " a blue one."),
        " It is",
        ("mark", " on top."),
    ]


@pytest.mark.parametrize(
    "text", [" \n a\n\n  b\t\n", "שלום\nעולם", "é👩‍👩‍👧", "<b>&amp;", "a\r\nb"]
)
def test_texts_are_kept_to_the_letter(text: str) -> None:
    article = card(
        traced(
            [3],
            prompt=[user_turn(text, 1)],
            chosen=[assistant_turn(text)],
            rejected=[assistant_turn(text)],
            rejected_spans=[Span(start=1, end=3)],
        )
    )
    prompt = article.one("section", "prompt").one("p", "text")
    chosen = article.one("section", "chosen").one("p", "text")
    rejected = article.one("section", "rejected").one("p", "text")
    assert prompt.text == chosen.text == rejected.text == text
    assert rejected.one("mark").text == text[1:3]
    assert all(p.attributes["dir"] == "auto" for p in (prompt, chosen, rejected))


def test_long_texts_scroll_and_can_be_reached_by_keyboard() -> None:
    article = card(traced([3], chosen=[assistant_turn(LONG)], rejected=[assistant_turn(LONG)]))
    boxes = article.all("div", "long")
    assert [box.text for box in boxes] == [LONG, LONG]
    assert all(box.attributes["tabindex"] == "0" for box in boxes)


def test_empty_sides_say_so() -> None:
    article = card(traced([3], chosen=[], rejected=[assistant_turn("")], rejected_spans=[]))
    for side in ("chosen", "rejected"):
        assert article.one("section", side).one("p", "muted").text == "(empty)"


def test_turns_are_named_where_there_are_several() -> None:
    prompt = [Message(role="system", content="Be brief."), user_turn("Why?", 1)]
    section = card(traced([3], prompt=prompt)).one("section", "prompt")
    assert [h.text for h in section.all("h3")] == ["System", "User"]
    assert [p.text for p in section.all("p")] == ["Be brief.", "[image] Why?"]


def test_a_pair_that_is_not_of_bdhs() -> None:
    pair = a_pair(method="online", similarity=None, iterations=None, chosen_version=0, seed=None)
    article = card(ShownPair(pair, PNG, None))
    assert facts(article) == {
        "Chosen by": "version 0",
        "Rejected by": "version 12",
        "Run": "demo",
    }
    assert article.one("img").attributes["alt"] == "Image of pair 1"
    assert not article.all("svg")
    assert not article.all("details")
    assert article.one("figcaption").text.strip() == ""


@pytest.mark.parametrize("trace", [None, a_trace()])
def test_a_bdhs_pair_without_a_trace_says_so(trace: BdhsTrace | None) -> None:
    article = card(ShownPair(a_pair(), PNG, trace))
    assert article.one("span", "visibility").text == "No trace: what the model saw is not recorded"
    assert not article.all("svg")
    assert not article.all("details")


@pytest.mark.parametrize(
    ("pair", "image", "words"),
    [
        (a_pair(), b"no image", "The image cannot be read."),
        (a_pair(), b"", "The image cannot be read."),
        (a_pair(images=[]), b"", "No image."),
    ],
)
def test_a_missing_image_leaves_a_word(pair: Pair, image: bytes, words: str) -> None:
    article = card(ShownPair(pair, image, a_trace(iteration([]))))
    assert not article.all("img")
    assert not article.all("svg")
    assert article.one("div", "frame").text.strip() == words


# --- what the model saw -------------------------------------------------------------------------


def hidden_path(article: Element) -> str | None:
    paths = article.all("path", "hidden-patches")
    return paths[0].attributes["d"] if paths else None


def test_the_last_iterations_hidden_patches_are_greyed() -> None:
    article = card(traced(range(36), [0, 1, 2, 3, 16 + 5 * 3 + 3, 20]))
    outer, inner = article.all("svg")
    assert outer.attributes["viewbox"] == "0 0 56 56"
    assert inner.attributes["viewbox"] == "0 0 4 4"
    assert inner.attributes["preserveaspectratio"] == "none"
    assert hidden_path(article) == "M0 1h4v2h-4zM0 3h3v1h-3z"
    assert article.one("path", "visible-patches").attributes["d"] == "M0 0h4v1h-4zM3 3h1v1h-1z"
    assert article.one("span", "visibility").text == "6 of 36 image tokens kept"
    assert article.one("img").attributes["alt"] == "Image of pair 1, 6 of 36 image tokens kept"
    assert article.one("label").text == "Plain image"


def test_an_empty_mask_greys_everything() -> None:
    article = card(traced([]))
    assert hidden_path(article) == "M0 0h4v4h-4z"
    assert article.one("span", "visibility").text == "nothing visible: 0 of 36 image tokens kept"


def test_a_full_mask_greys_nothing_and_needs_no_toggle() -> None:
    article = card(traced(range(36)))
    assert hidden_path(article) is None
    assert not article.all("label")
    assert article.one("span", "visibility").text == "all 36 image tokens kept"


def test_a_mask_of_newlines_shows_nothing() -> None:
    article = card(traced([20, 25]))
    assert hidden_path(article) == "M0 0h4v4h-4z"
    words = "nothing visible: 2 of 36 image tokens kept, none of them a patch"
    assert article.one("span", "visibility").text == words


def test_without_grids_only_an_empty_mask_can_be_drawn() -> None:
    def without_views(kept: Sequence[int]) -> Element:
        return card(ShownPair(a_pair(), PNG, a_trace(iteration(kept), views=[])))

    assert hidden_path(without_views([])) == "M0 0h1v1h-1z"
    assert hidden_path(without_views([5])) is None
    assert without_views([5]).one("span", "visibility").text == "1 of 36 image tokens kept"


def test_noise_is_named() -> None:
    trace = a_trace(iteration(range(36), noise_steps=500))
    article = card(ShownPair(a_pair(method="bdhs-noise"), PNG, trace))
    assert article.one("span", "visibility").text == "all 36 image tokens kept; noise, 500 steps"


# --- iterations ---------------------------------------------------------------------------------


def test_every_iteration_is_shown_with_its_sentences() -> None:
    free = iteration(
        [], guided=False, sentences=[sentence("", "A.\nB", finish_reason="stop")], text="A.\nB"
    )
    article = card(ShownPair(a_pair(), PNG, a_trace(iteration([3], similarity=0.98), free)))
    assert facts(article)["Last iteration"] == "unguided"
    details = article.one("details")
    assert details.one("summary").text == "Every iteration: similarity 0.980, 0.712"
    assert [h.text for h in details.all("h3")] == [
        "Iteration 1 · guided · similarity 0.980 · 1 of 36 image tokens kept",
        "Iteration 2 · unguided · similarity 0.712 · nothing visible: 0 of 36 image tokens kept",
    ]
    lines = [li for ol in details.one("ol", "rounds").all("ol") for li in ol.all("li")]
    assert [
        (li.one("p").text, li.one("mark").text, li.one("span", "tag").text) for li in lines
    ] == [
        ("No, a blue one.", " a blue one.", "⇄ swapped · ended: sentence"),
        ("It is on top.", " on top.", "ended: length"),
        ("A.\nB", "A.\nB", "ended: stop"),
    ]


def test_an_iterations_text_is_repeated_only_where_its_sentences_differ() -> None:
    same = iteration([], text="No, a blue one.\n\nIt is on top.")
    other = iteration([], text="Something else.")
    assert not has_unlisted_text(same)
    assert has_unlisted_text(other)
    details = card(ShownPair(a_pair(), PNG, a_trace(same, other))).one("details")
    assert [p.text for p in details.all("p", "text")][-1] == "Something else."
    assert len(details.all("p", "text")) == 5


def test_metadata_is_shown() -> None:
    article = card(ShownPair(a_pair(metadata={"Ä": [1, None]}), PNG, None))
    assert json.loads(article.one("pre").text) == {"Ä": [1, None]}
    assert "Ä" in article.one("pre").text


# --- safety -------------------------------------------------------------------------------------


def test_hostile_strings_stay_text_in_every_field() -> None:
    trace = a_trace(
        iteration(
            [3],
            sentences=[sentence(HOSTILE, HOSTILE, swapped=True, finish_reason=HOSTILE)],
            text=HOSTILE + HOSTILE + "!",
        )
    )
    # `run`, `method` and the rest have closed forms; here they are forced past validation.
    pair = a_pair(
        prompt=[Message(role="system", content=HOSTILE), user_turn(HOSTILE, 1)],
        chosen=[assistant_turn(HOSTILE)],
        rejected=[assistant_turn(HOSTILE)],
        rejected_spans=[Span(start=5, end=40)],
        pair_id=HOSTILE,
        metadata={HOSTILE: HOSTILE},
    ).model_copy(update={"run": HOSTILE, "method": HOSTILE, "seed": HOSTILE, "iterations": HOSTILE})
    hostile = page(
        [ShownPair(pair, PNG, trace)], title=HOSTILE, summary=[(HOSTILE, HOSTILE), ("a", HOSTILE)]
    )
    harmless = page(
        [
            ShownPair(
                pair.model_copy(update={"pair_id": "x"}),
                PNG,
                a_trace(
                    iteration([3], sentences=[sentence("a", "b", swapped=True)], text="something")
                ),
            )
        ],
        summary=[("a", "b"), ("a", "b")],
    )

    def shape(element: Element) -> list[Any]:
        inner = [shape(child) for child in element.children if isinstance(child, Element)]
        return [element.tag, sorted(element.attributes), inner]

    assert shape(hostile) == shape(harmless)
    article = hostile.one("article")
    assert hostile.one("h1").text == hostile.one("title").text == HOSTILE
    assert hostile.one("dl", "figures").all("dt")[0].text == HOSTILE
    assert article.one("code", "id").text == article.one("small", "method").text == HOSTILE
    assert article.one("section", "rejected").one("p", "text").text == HOSTILE
    assert facts(article)["Run"] == facts(article)["Seed"] == HOSTILE
    assert article.one("span", "tag").text.endswith(HOSTILE)
    assert json.loads(article.one("pre").text) == {HOSTILE: HOSTILE}


# --- text segments ---


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], [TextSegment("abcdef", by_model=False)]),
        ([(0, 6)], [TextSegment("abcdef", by_model=True)]),
        ([(2, 2)], [TextSegment("abcdef", by_model=False)]),
        (
            [(4, 99), (1, 2)],
            [
                TextSegment("a", by_model=False),
                TextSegment("b", by_model=True),
                TextSegment("cd", by_model=False),
                TextSegment("ef", by_model=True),
            ],
        ),
        ([(0, 4), (2, 6)], [TextSegment("abcd", by_model=True), TextSegment("ef", by_model=True)]),
        ([(7, 9)], [TextSegment("abcdef", by_model=False)]),
    ],
)
def test_text_is_cut_at_the_spans(
    spans: list[tuple[int, int]], expected: list[TextSegment]
) -> None:
    assert text_segments("abcdef", [Span(start=start, end=end) for start, end in spans]) == expected
