"""The scene's and the policy's own judgement of responses about the shapes world."""

from collections.abc import Sequence
from typing import Any

import pytest

from service.annotator import CannotJudge, Case
from service.schemas import Message, TextPart, user_turn
from trainer.toy.annotator import by_questions, by_scene
from trainer.toy.world import Scene

SCENE = Scene.read(["red circle, top left", "blue square, bottom right"])
TRUE = "There is a red circle in the top left. There is a blue square in the bottom right."
SHORT = "There is a red circle in the top left."
FALSE = "There is a red circle in the top left. There is a green square in the bottom right."


def case(first: str, second: str, prompt: str = "Describe the image.", **metadata: Any) -> Case:
    async def ask(conversation: Sequence[Message], *, max_tokens: int) -> str:
        """A policy that sees what is there."""
        [turn] = conversation
        [text] = [part.text for part in turn.parts if isinstance(part, TextPart)]
        seen = any(f"a {shape.name} in" in text for shape in SCENE.shapes)
        return "Yes, there is." if seen else "No, there is none."

    known = {"kind": "caption", "scene": list(SCENE.described), "reference": TRUE, **metadata}
    return Case([user_turn(prompt, 1)], [], first, second, known, ask)


def test_a_scene_survives_its_description() -> None:
    assert Scene.read(SCENE.described) == SCENE
    with pytest.raises(ValueError, match="'red cube, top left' is no shape"):
        Scene.read(["red cube, top left"])


@pytest.mark.parametrize(
    ("first", "second", "choice"),
    [
        (TRUE, FALSE, "first"),
        (SHORT, FALSE, "first"),  # truth before help
        (SHORT, TRUE, "second"),  # help among the true
        ("There is is.", FALSE, "second"),
        (FALSE, FALSE, "tie"),
    ],
)
async def test_captions(first: str, second: str, choice: str) -> None:
    assert by_scene(case(first, second)).choice == choice
    assert (await by_questions(case(first, second))).choice == choice


async def test_yes_and_no() -> None:
    asked = case(
        "No.",
        "Yes, there is a red circle in the image.",
        "Is there a red circle in the image?",
        kind="yes_no",
        reference="Yes, there is a red circle in the image.",
    )
    assert by_scene(asked).choice == "second"
    assert (await by_questions(asked)).choice == "second"


def test_other_answers_are_right_or_wrong() -> None:
    asked = case(
        "The circle is blue.", "The circle is red.", kind="color", reference="The circle is red."
    )
    assert by_scene(asked).choice == "second"


def test_without_a_scene_it_says_what_it_needs() -> None:
    with pytest.raises(CannotJudge, match="`kind`, `scene` and `reference`"):
        by_scene(case(TRUE, FALSE, scene=None))
