"""Conversations and pictures of each family become what its own processor makes of them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL.Image import Image

from service.checkpoints.input_processor import (
    InputProcessor,
    UnusableCheckpoint,
    load_input_processor,
)
from service.checkpoints.settings import InputSettings
from service.rendering import BadConversation
from service.schemas import Message, Span, assistant_turn, user_turn
from tests.families.family import FAMILIES, Family
from tests.families.pictures import PICTURES

Checkpoint = Callable[[str], Path]

ANSWER = "There is a red circle."
CIRCLE = Span(start=ANSWER.index("circle"), end=ANSWER.index("."))

SEVERAL_TURNS = [
    user_turn("What is it?", 1),
    assistant_turn("A cat."),
    user_turn("And these, on the left?", 2),
]
"""Three images in all."""

CONVERSATIONS = {
    "no image": [user_turn("Who are you?", 0)],
    "one image": [user_turn("What is it?", 1)],
    "two images": [user_turn("What is on the left of them?", 2)],
    "later": [user_turn("Hello.", 0), assistant_turn("Hello."), user_turn("What is it?", 1)],
    "several turns": SEVERAL_TURNS,
}

OWN_PROCESSOR = [name for name, family in FAMILIES.items() if not family.trust_remote_code]
ONE_BY_ONE = ("llava_onevision",)
"""Their processor shows several pictures of one sequence otherwise than each alone, with fewer
tokens; vLLM shows each as if it were alone, and so do we."""


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture
def inputs(family: Family, checkpoint: Checkpoint) -> InputProcessor:
    return load(checkpoint(family.name), family)


def load(folder: Path, family: Family) -> InputProcessor:
    return load_input_processor(
        str(folder), InputSettings(), trust_remote_code=family.trust_remote_code
    )


def test_each_image_has_one_placeholder(family: Family, inputs: InputProcessor) -> None:
    renderer = inputs.renderer
    assert renderer.image_token == (family.placeholder or family.image_token)
    for name, conversation in CONVERSATIONS.items():
        images = sum(part.type == "image" for turn in conversation for part in turn.parts)
        ids = renderer.prompt(conversation).token_ids
        assert ids.count(renderer.image_token_id) == images, name
    feature_token = renderer.tokenizer.convert_ids_to_tokens(inputs.feature_token_id)
    assert feature_token == family.image_token


@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_an_answer_is_trained_on_behind_what_was_asked(
    inputs: InputProcessor, conversation: Sequence[Message]
) -> None:
    renderer = inputs.renderer
    prompt = renderer.prompt(conversation)
    answer = renderer.answer(conversation, ANSWER)
    assert answer.prompt_token_ids == prompt.token_ids
    assert answer.token_ids[-1] in renderer.end_token_ids
    text = renderer.tokenizer.decode(answer.token_ids[:-1])
    assert text.strip() == ANSWER
    [span] = prompt.token_spans(ANSWER, [CIRCLE])
    assert renderer.tokenizer.decode(answer.token_ids[span.start : span.end]).strip() == "circle"
    by_ids = renderer.answer(conversation, "other", token_ids=[*answer.token_ids, 5])
    assert by_ids == answer
    for end in prompt.token_ends(ANSWER):
        whole = prompt.token_ids_up_to(ANSWER, end)
        assert whole == (answer.prompt_token_ids + answer.token_ids)[: len(whole)]


def test_no_text_may_say_where_an_image_goes(inputs: InputProcessor) -> None:
    image = inputs.renderer.image_token
    with pytest.raises(BadConversation, match="image placeholder"):
        inputs.renderer.prompt([user_turn(f"What is {image}?", 1)])
    with pytest.raises(BadConversation, match="contains the image placeholder"):
        inputs.renderer.answer(CONVERSATIONS["one image"], f"It is {image}.")


@pytest.mark.parametrize("name", OWN_PROCESSOR)
@pytest.mark.parametrize("turns", ["one image", "later", "two images", "several turns"])
def test_pictures_become_what_the_processor_writes_for_them(
    checkpoint: Checkpoint, name: str, turns: str
) -> None:
    conversation = CONVERSATIONS[turns]
    images = sum(part.type == "image" for turn in conversation for part in turn.parts)
    if name in ONE_BY_ONE and images > 1:
        pytest.skip("the family's processor shows several pictures otherwise")
    inputs = load(checkpoint(name), FAMILIES[name])
    tokens, pixels = inputs.process_images(PICTURES[:images])
    ids = inputs.with_images(inputs.renderer.prompt(conversation).token_ids, iter(tokens))
    whole = process_whole(inputs, conversation, PICTURES[:images])
    assert ids == whole["input_ids"][0].tolist()
    assert {n: t[0] for n, t in inputs.token_types([ids]).items()} == {
        n: whole[n][0].tolist() for n in ("token_type_ids", "mm_token_type_ids") if n in whole
    }
    assert pixels.keys() <= whole.keys()
    torch.testing.assert_close(without_padding(pixels), without_padding(whole), atol=0, rtol=0)


def without_padding(processed: Mapping[str, Any]) -> torch.Tensor:
    """Pixels, without the empty tiles that make all pictures of a batch as many."""
    pixels: torch.Tensor = processed["pixel_values"]
    tiles = pixels.flatten(0, 1) if pixels.dim() == 5 else pixels
    return tiles[(tiles != 0).flatten(1).any(1)]


def process_whole(
    inputs: InputProcessor, conversation: Sequence[Message], pictures: Sequence[Image]
) -> dict[str, Any]:
    """What transformers' processor makes of it at once."""
    text = inputs.renderer.render(conversation, open_turn=True)
    bos = inputs.renderer.tokenizer.bos_token
    return inputs.processor(
        text=[text],
        images=[list(pictures)],
        add_special_tokens=bos is None or not text.startswith(bos),
        return_tensors="pt",
    )


def test_line_feeds_that_meet_an_image_are_one_token(checkpoint: Checkpoint) -> None:
    """Gemma 3 writes an image between empty lines, and a turn's first line ends before it."""
    inputs = load(checkpoint("gemma3"), FAMILIES["gemma3"])
    tokens, _ = inputs.process_images(PICTURES[:2])
    prompt = inputs.renderer.prompt(CONVERSATIONS["two images"]).token_ids
    ids = inputs.with_images(prompt, iter(tokens))
    written = inputs.renderer.tokenizer.convert_ids_to_tokens(ids)
    first, second = (i for i, token in enumerate(written) if token == "<start_of_image>")
    assert written[first - 1] == "\n\n\n"
    assert written[second - 1] == "\n\n\n\n"


def test_a_template_of_texts_gets_a_line_for_each_image(checkpoint: Checkpoint) -> None:
    inputs = load(checkpoint("internvl_chat"), FAMILIES["internvl_chat"])
    rendered = inputs.renderer.render(CONVERSATIONS["two images"], open_turn=True)
    line = "<IMG_CONTEXT>\n"
    assert f"user\n{line}{line}What is on the left of them?<|im_end|>" in rendered


def test_code_of_their_own_processes_pictures_elsewhere(checkpoint: Checkpoint) -> None:
    folder = checkpoint("internvl_chat")
    inputs = load(folder, FAMILIES["internvl_chat"])
    assert inputs.process_images([]) == ([], {})
    assert inputs.digest == load(folder, FAMILIES["internvl_chat"]).digest
    with pytest.raises(UnusableCheckpoint, match="can be served, but not trained"):
        inputs.process_images(PICTURES)
