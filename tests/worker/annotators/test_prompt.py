"""What a judge is asked, and how its answer is read."""

from collections.abc import Sequence
from typing import Any

import pytest

from service.annotator import Case
from service.schemas import ImagePart, Message, TextPart, assistant_turn, user_turn
from worker.annotators import prompt


async def nobody(conversation: Sequence[Message], *, max_tokens: int) -> str:
    raise AssertionError("nobody is asked")


def case(**changes: Any) -> Case:
    return Case(
        **{
            "conversation": [user_turn("What is there?", 1)],
            "images": [b"1"],
            "first": "A cat. ",
            "second": "A {dog}.",
            "metadata": {},
            "ask": nobody,
            **changes,
        }
    )


def test_the_question_has_all_that_is_needed() -> None:
    earlier = [user_turn("Hello.", 1), assistant_turn("Hi."), user_turn("What is there?", 1)]
    turn = prompt.comparison_message(case(conversation=earlier, images=[b"1", b"2"]))
    *images, text = turn.parts
    assert images == [ImagePart(), ImagePart()]
    assert isinstance(text, TextPart)
    assert "about 2 images" in text.text
    assert "user: Hello.\nassistant: Hi." in text.text
    assert "Question:\nWhat is there?\n\nResponse 1:\nA cat.\n\nResponse 2:\nA {dog}." in text.text
    assert "Hello" not in str(prompt.comparison_message(case()))


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("Response 1\nIt is true.", "first"),
        ("response 2.", "second"),
        ("**Response 2**\nbecause", "second"),
        ("Better response: Response 1", "first"),
        ("The better response is Response 2.", "second"),
        ("Verdict: Response 1 – the other invents a dog.", "first"),
        ("Response 2 is better: there is no dog.", "second"),
        ("Tie", "tie"),
        ("Neither. Both are wrong.", "tie"),
        ("I looked closely. Response 1 is clearly better, since Response 2 invents.", "first"),
        ("I prefer Response 2.", "second"),
        ("Response 1 and Response 2 say the same.", "unreadable"),
        ("Response 1 invents a dog.", "unreadable"),
        ("Response 1 is better in truth. In help, Response 2 is better.\n", "first"),
        ("On truth Response 1 is better, on help Response 2 is better.", "unreadable"),
        ("Response 12", "unreadable"),
        ("There is a red circle.", "unreadable"),
        ("", "unreadable"),
    ],
)
def test_verdicts(text: str, choice: str) -> None:
    assert prompt.parse_verdict(text).choice == choice
    assert prompt.parse_verdict(text).text == text
