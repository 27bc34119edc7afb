"""The page and what is on it, as elements."""

from collections.abc import Sequence

from service.web import ShownPair, render_pairs
from tests.service.web.html_tree import Element, HtmlTree


def page(
    pairs: Sequence[ShownPair], title: str = "Pairs", summary: Sequence[tuple[str, str]] = ()
) -> Element:
    return HtmlTree(render_pairs(pairs, title=title, summary=summary)).root


def card(shown: ShownPair) -> Element:
    return page([shown]).one("article")


def facts(article: Element) -> dict[str, str]:
    rows = article.one("dl", "facts").all("div")
    return {row.one("dt").text: row.one("dd").text for row in rows}
