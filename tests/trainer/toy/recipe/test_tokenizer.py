import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from trainer.toy.language import QUESTIONS, caption
from trainer.toy.recipe.tokenizer import BOS, EOS, IMAGE, PAD, build_tokenizer
from trainer.toy.world import COLORS, KINDS, uniform_scene

TOKENIZER: PreTrainedTokenizerFast = build_tokenizer()


def ids(text: str) -> list[int]:
    return TOKENIZER(text)["input_ids"]


def user(content: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": content}]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_encodes_and_decodes_to_itself(text: str):
    assert TOKENIZER.decode(ids(text)) == text


@given(st.text("ab. ,\n?é"), st.text("ab. ,\n?é"))
def test_text_added_at_a_word_end_leaves_earlier_tokens_alone(before: str, after: str):
    word = before + "a"
    assert ids(f"{word} {after}")[: len(ids(word))] == ids(word)


@given(st.integers(0, 2**32))
def test_every_word_end_of_a_caption_is_a_token_end(seed: int):
    text = caption(uniform_scene(random.Random(seed)))
    words = text.split()
    for count in range(1, len(words)):
        before = " ".join(words[:count])
        assert ids(text)[: len(ids(before))] == ids(before)


def test_words_of_the_world_are_single_tokens():
    for word in (*KINDS, *COLORS, "left", "bottom", "image", "nothing", "three"):
        assert len(ids(f" {word}")) == 1
    assert len(ids("Yes")) == len(ids("No")) == 1


def test_special_tokens_have_their_names():
    assert (TOKENIZER.bos_token, TOKENIZER.eos_token, TOKENIZER.pad_token) == (BOS, EOS, PAD)
    assert len({*ids(BOS + EOS + PAD + IMAGE)}) == 4
    assert ids("plain") == TOKENIZER("plain", add_special_tokens=False)["input_ids"]


def test_a_conversation_renders_turn_by_turn():
    turns = [
        *user([{"type": "image"}, {"type": "text", "text": "What does the image show?"}]),
        {"role": "assistant", "content": [{"type": "text", "text": "A circle."}]},
        *user("Where?"),
    ]
    assert TOKENIZER.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == (
        "<s>USER:<image>\nWhat does the image show?\nASSISTANT:\nA circle.</s>"
        "USER:\nWhere?\nASSISTANT:\n"
    )


@pytest.mark.parametrize("question", [ask.__name__ for ask in QUESTIONS.values()])
def test_both_forms_of_content_render_alike(question: str):
    text = f"{question}?"
    parts = TOKENIZER.apply_chat_template(
        user([{"type": "text", "text": text}, {"type": "image"}]), tokenize=False
    )
    assert parts == TOKENIZER.apply_chat_template(user(f"<image>\n{text}"), tokenize=False)
    assert parts == f"<s>USER:<image>\n{text}\n"


def test_a_prompt_whose_image_is_left_out_is_a_prompt_without_an_image():
    text = {"type": "text", "text": "Describe the image."}
    shown, unseen = (
        TOKENIZER.apply_chat_template(user(content), tokenize=False, add_generation_prompt=True)
        for content in ([{"type": "image"}, text], [text])
    )
    left = [token for token in ids(shown) if token != TOKENIZER.convert_tokens_to_ids(IMAGE)]
    assert left == ids(unseen)


def test_a_generation_prompt_is_a_prefix_of_the_whole_conversation():
    asked = user("Describe the image.")
    told = [*asked, {"role": "assistant", "content": "There is a red circle in the top left."}]
    prompt = TOKENIZER.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    whole = TOKENIZER.apply_chat_template(told, tokenize=False)
    assert whole.startswith(prompt)
    assert whole.endswith(EOS)
    assert ids(whole)[: len(ids(prompt))] == ids(prompt)
