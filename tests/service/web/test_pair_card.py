"""One pair on the page."""

import json

import pytest

from service.schemas import (
    BdhsTrace,
    CorruptionTrace,
    ImageTrace,
    ImageView,
    Message,
    Pair,
    Span,
    assistant_turn,
    user_turn,
)
from service.web import ShownPair
from service.web.page import has_unlisted_text
from tests.service.web.rendered import card, facts
from tests.service.web.shown_pairs import (
    PNG,
    a_pair,
    a_trace,
    iteration,
    sentence,
    traced,
)

LONG = "word " * 1000
QUARTERS = ImageView(start=0, rows=2, columns=2, newline=False)


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
    article = card(ShownPair(pair, [PNG], None))
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
    article = card(ShownPair(a_pair(), [PNG], trace))
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
    article = card(ShownPair(pair, [image] if pair.images else [], a_trace(iteration([]))))
    assert not article.all("img")
    assert not article.all("svg")
    assert article.one("div", "frame").text.strip() == words


def test_each_of_several_images_is_shown_with_what_was_hidden_of_it() -> None:
    trace = BdhsTrace(
        images=[ImageTrace(tokens=4, views=[QUARTERS]), ImageTrace(tokens=9, views=[])],
        iterations=[
            iteration([], images=[CorruptionTrace(kept=[0, 3]), CorruptionTrace(kept=range(9))])
        ],
    )
    article = card(ShownPair(a_pair(images=["sha256:1", "sha256:2"]), [PNG, PNG], trace))
    assert [image.attributes["alt"] for image in article.all("img")] == [
        "Image 1 of pair 1, 2 of 4 image tokens kept",
        "Image 2 of pair 1, all 9 image tokens kept",
    ]
    assert [words.text for words in article.all("span", "visibility")] == [
        "2 of 4 image tokens kept",
        "all 9 image tokens kept",
    ]
    [hidden] = article.all("path", "hidden-patches")
    assert hidden.attributes["d"] == "M1 0h1v1h-1zM0 1h1v1h-1z"


def test_every_iteration_is_shown_with_its_sentences() -> None:
    free = iteration(
        [], guided=False, sentences=[sentence("", "A.\nB", finish_reason="stop")], text="A.\nB"
    )
    article = card(ShownPair(a_pair(), [PNG], a_trace(iteration([3], similarity=0.98), free)))
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
    details = card(ShownPair(a_pair(), [PNG], a_trace(same, other))).one("details")
    assert [p.text for p in details.all("p", "text")][-1] == "Something else."
    assert len(details.all("p", "text")) == 5


def test_metadata_is_shown() -> None:
    article = card(ShownPair(a_pair(metadata={"Ä": [1, None]}), [PNG], None))
    assert json.loads(article.one("pre").text) == {"Ä": [1, None]}
    assert "Ä" in article.one("pre").text
