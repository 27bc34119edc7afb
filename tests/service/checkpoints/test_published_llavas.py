"""Conversations of published LLaVAs, by their true templates and a true SentencePiece tokenizer."""

from collections.abc import Callable
from pathlib import Path

import pytest

from service.checkpoints.input_processor import load_input_processor
from service.checkpoints.settings import InputSettings
from service.rendering import Renderer
from service.schemas import Message, TextPart, assistant_turn, user_turn
from tests import hub_checkpoints

MODELS: dict[str, Callable[[Path], Path]] = {
    "llava-1.5": hub_checkpoints.llava_15,
    "llava-1.6-vicuna": hub_checkpoints.llava_16_vicuna,
    "llava-1.6-mistral": hub_checkpoints.llava_16_mistral,
}

SYSTEM = Message(role="system", content=[TextPart(text="Answer the human.")])

CONVERSATIONS = {
    "one turn": [user_turn("What is it?", 1)],
    "a system prompt": [SYSTEM, user_turn("What is it?", 1)],
    "several images": [user_turn("What differs?", 3)],
    "several turns": [
        user_turn("What is it?", 1),
        assistant_turn("A cat. It is black."),
        user_turn("And this?", 1),
    ],
}


@pytest.fixture(scope="module", params=MODELS)
def renderer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    folder = MODELS[request.param](tmp_path_factory.mktemp(request.param))
    return load_input_processor(str(folder), InputSettings()).renderer


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_both_sides_begin_and_end_as_the_model_does(renderer: Renderer, conversation: str) -> None:
    turns, tokenizer = CONVERSATIONS[conversation], renderer.tokenizer
    asked = renderer.prompt(turns)
    assert asked.token_ids[0] == tokenizer.bos_token_id
    assert asked.token_ids.count(tokenizer.bos_token_id) == 1
    text = "The cat sat. It ran."
    answer = renderer.answer(turns, text)
    assert answer.prompt_token_ids == asked.token_ids
    *told, end = answer.token_ids
    assert end == tokenizer.eos_token_id
    # No stray space, before the end or anywhere.
    assert tokenizer.decode(told) == text
    assert tokenizer.convert_ids_to_tokens(told)[0] == "▁The"
    assert tokenizer.convert_ids_to_tokens(told)[-1] == "."


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_what_the_policy_would_write_is_what_is_trained(
    renderer: Renderer, conversation: str
) -> None:
    """Going on token by token from the prompt, one comes to the same ids."""
    asked = renderer.prompt(CONVERSATIONS[conversation])
    text = "The cat sat. It ran."
    answer = asked.answer(text)
    for cut in asked.token_ends(text):
        ids = asked.token_ids_up_to(text, cut)
        assert ids == (asked.token_ids + answer.token_ids)[: len(ids)]
