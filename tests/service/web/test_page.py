"""The page of pairs as a whole: what it holds, what it lets in, what it escapes."""

import json
import re
import time
from base64 import b64encode
from hashlib import sha256
from typing import Any

import pytest

from service.schemas import (
    Message,
    Span,
    assistant_turn,
    user_turn,
)
from service.web import ShownPair
from tests.service.web.html_tree import Element
from tests.service.web.rendered import facts, page
from tests.service.web.shown_pairs import (
    PNG,
    a_pair,
    a_trace,
    iteration,
    sentence,
    traced,
)

HOSTILE = (
    """</script></p><script>alert(1)</script><img src=x onerror=alert(1)>"'&amp;{{7*7}}{%x%}-->"""
)


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
        [ShownPair(pair, [PNG], trace)], title=HOSTILE, summary=[(HOSTILE, HOSTILE), ("a", HOSTILE)]
    )
    harmless = page(
        [
            ShownPair(
                pair.model_copy(update={"pair_id": "x"}),
                [PNG],
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
