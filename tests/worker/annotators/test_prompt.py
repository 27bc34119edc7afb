"""What a judge is asked."""

from collections.abc import Sequence
from typing import Any

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
