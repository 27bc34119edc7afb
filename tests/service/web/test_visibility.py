"""What of the image the model saw."""

from collections.abc import Sequence

from service.web import ShownPair
from tests.service.web.html_tree import Element
from tests.service.web.rendered import card
from tests.service.web.shown_pairs import PNG, a_pair, a_trace, iteration, traced


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
        return card(ShownPair(a_pair(), [PNG], a_trace(iteration(kept), views=[])))

    assert hidden_path(without_views([])) == "M0 0h1v1h-1z"
    assert hidden_path(without_views([5])) is None
    assert without_views([5]).one("span", "visibility").text == "1 of 36 image tokens kept"


def test_noise_is_named() -> None:
    trace = a_trace(iteration(range(36), noise_steps=500))
    article = card(ShownPair(a_pair(method="bdhs-noise"), [PNG], trace))
    assert article.one("span", "visibility").text == "all 36 image tokens kept; noise, 500 steps"
