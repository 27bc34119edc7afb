"""Prompts are slices of the whole: in every script, and under chat templates of several shapes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.rendering import BadConversation, Prompt, Renderer
from service.schemas import (
    ImagePart,
    Message,
    Span,
    TextPart,
    assistant_turn,
    user_turn,
)
from trainer.toy.recipe.tokenizer import CHAT_TEMPLATE, IMAGE, build_tokenizer

PARTS = (
    "{%- for part in message.content if part.type == 'image' %}<image>\n{% endfor %}"
    "{%- for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}"
)

TEMPLATES = {
    "toy": CHAT_TEMPLATE,
    # As Vicuna's: a header after the turn, a space before the answer, which is trimmed.
    "vicuna": (
        "{%- for message in messages %}{% if message.role == 'user' %}USER: "
        + PARTS
        + " {% else %}ASSISTANT: {{ message.content[0].text | trim }}{{ eos_token }}{% endif %}"
        "{%- endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    ),
    # As Mistral's: nothing at all opens the assistant's turn.
    "mistral": (
        "{{- bos_token }}{%- for message in messages %}{% if message.role == 'user' %}[INST] "
        + PARTS
        + " [/INST]{% else %}{{ ' ' + message.content[0].text }}{{ eos_token }}{% endif %}"
        "{%- endfor %}"
    ),
    # As ChatML's: both turns are closed by words that an answer may contain.
    "chatml": (
        "{%- for message in messages %}<|im_start|>{{ message.role + '\n' }}"
        + PARTS
        + "<|im_end|>\n{% endfor %}"
        "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
}

TOKENIZER = build_tokenizer()
IMAGE_ID = TOKENIZER.convert_tokens_to_ids(IMAGE)

answers = st.one_of(
    st.sampled_from(
        [
            "There is a red circle in the top left. There is a blue square.",
            "Yes.",
            "s",
            "It is 3.5 m. 一只猫。😀 Да, это так.",
            "  spaced   out \n text ",
            "<|im_end|>",
        ]
    ),
    st.text(min_size=1, max_size=40).filter(lambda text: text.strip() and IMAGE not in text),
)


def renderer(template: str) -> Renderer:
    return Renderer(TOKENIZER, template, image_token_id=IMAGE_ID)


def prompt(template: str, text: str = "Describe the image.", images: int = 1) -> Prompt:
    return renderer(TEMPLATES[template]).prompt([user_turn(text, images)])


PROMPTS = {name: prompt(name) for name in TEMPLATES}


@pytest.mark.parametrize("template", TEMPLATES)
@given(answer=answers)
def test_a_cut_at_a_token_is_a_slice_of_the_whole(template: str, answer: str) -> None:
    made = PROMPTS[template]
    whole, before = made.token_ids_with(answer)
    opening = made.token_ids_up_to(answer, 0)
    assert whole[: len(opening)] == opening
    assert before >= len(opening)  # a template may put a space before the answer
    for cut in {end for end in made.token_ends(answer) if end <= len(answer.rstrip())}:
        ids = made.token_ids_up_to(answer, cut)
        assert ids == whole[: len(ids)]
        text = TOKENIZER.decode(ids)
        kept = answer[:cut].lstrip() if template == "vicuna" else answer[:cut]
        assert text.endswith(kept)


@pytest.mark.parametrize("template", TEMPLATES)
def test_an_empty_cut_is_the_generation_prompt(template: str) -> None:
    made = PROMPTS[template]
    assert made.token_ids_up_to("Anything at all.", 0) == made.token_ids
    assert made.token_ids.count(IMAGE_ID) == 1


@pytest.mark.parametrize("template", TEMPLATES)
@given(answer=answers, data=st.data())
def test_any_cut_ends_with_the_text_before_it(
    template: str, answer: str, data: st.DataObject
) -> None:
    made = PROMPTS[template]
    body = answer.strip()
    start = answer.index(body)
    cut = data.draw(st.integers(start + 1, start + len(body)))
    assert TOKENIZER.decode(made.token_ids_up_to(answer, cut)).endswith(answer[start:cut])


def test_a_placeholder_in_the_text_is_refused() -> None:
    with pytest.raises(BadConversation, match="2 image placeholders"):
        prompt("vicuna", "an <image> too many")


def test_what_a_template_refuses_is_said() -> None:
    refusing = renderer("{{ raise_exception('roles must alternate') }}")
    turn = Message(role="user", content=[ImagePart(), TextPart(text="Hello.")])
    with pytest.raises(BadConversation, match="roles must alternate"):
        refusing.prompt([turn, turn])


@pytest.mark.parametrize("template", TEMPLATES)
@given(answer=answers)
def test_an_answer_is_followed_by_its_end_and_by_nothing_else(template: str, answer: str) -> None:
    made = PROMPTS[template]
    ended, open_ended = made.answer(answer), made.answer(answer, ended=False)
    assert ended.prompt_token_ids == open_ended.prompt_token_ids == made.token_ids
    assert ended.token_ids == [*open_ended.token_ids, TOKENIZER.eos_token_id]
    assert TOKENIZER.decode(open_ended.token_ids).strip() == answer.strip()


def test_the_template_says_which_token_ends_a_turn() -> None:
    end = TOKENIZER.convert_tokens_to_ids("</s>")
    other = TOKENIZER.convert_tokens_to_ids("<pad>")
    template = TEMPLATES["chatml"].replace("<|im_end|>", "<pad>")
    conversation = [user_turn("What?", 1)]
    knows_both = Renderer(TOKENIZER, template, image_token_id=IMAGE_ID, end_token_ids=[other])
    assert knows_both.answer(conversation, "A dog.").token_ids[-1] == other
    # One at which the model does not stop is no end.
    assert renderer(template).answer(conversation, "A dog.").token_ids[-1] == end


def test_what_a_policy_wrote_is_not_tokenised_again() -> None:
    made, conversation = renderer(CHAT_TEMPLATE), [user_turn("What?", 1)]
    end = TOKENIZER.eos_token_id
    letters = [TOKENIZER.convert_tokens_to_ids(letter) for letter in "dog"]
    by_letters = made.answer(conversation, "dog", token_ids=[*letters, end, letters[0]])
    assert by_letters.token_ids == [*letters, end]  # and nothing after the end
    assert made.answer(conversation, "dog").token_ids != by_letters.token_ids
    cut = made.answer(conversation, "dog", token_ids=letters)
    assert cut.token_ids == letters


def test_a_placeholder_that_a_policy_wrote_is_left_out() -> None:
    made, conversation = renderer(CHAT_TEMPLATE), [user_turn("What?", 1)]
    answer = made.answer(conversation, "A dog.", token_ids=[IMAGE_ID, 1])
    assert answer == made.answer(conversation, "A dog.")
    with pytest.raises(BadConversation, match="image placeholder"):
        made.answer(conversation, "An <image> of a dog.")


def test_an_answer_follows_the_turn_as_it_is_opened() -> None:
    """Also where the template tells a turn in other words, without an empty train of thought."""
    thoughtful = TEMPLATES["chatml"].replace(
        "assistant\n{% endif", "assistant\n<think></think>{% endif"
    )
    made = renderer(thoughtful).prompt([user_turn("What?", 1)])
    assert TOKENIZER.decode(made.token_ids).endswith("<think></think>")
    answer = made.answer("A dog.")
    assert answer.prompt_token_ids == made.token_ids
    assert TOKENIZER.decode(answer.token_ids) == "A dog.</s>"


def test_template_variables() -> None:
    template = "{{ greeting }}" + TEMPLATES["chatml"]
    greeting = Renderer(
        TOKENIZER, template, image_token_id=IMAGE_ID, template_kwargs={"greeting": "Hello!"}
    )
    asked = greeting.prompt([user_turn("What?", 1)]).token_ids
    assert TOKENIZER.decode(asked).startswith("Hello!<|im_start|>user")


@pytest.mark.parametrize("template", TEMPLATES)
@given(answer=answers, data=st.data())
def test_token_spans_hold_the_characters_of_their_spans(
    template: str, answer: str, data: st.DataObject
) -> None:
    made = PROMPTS[template]
    body = answer.strip()
    first = answer.index(body)
    start = data.draw(st.integers(first, first + len(body) - 1))
    end = data.draw(st.integers(start + 1, first + len(body)))
    ids = made.answer(answer).token_ids
    [span] = made.token_spans(answer, [Span(start=start, end=end)])
    within = TOKENIZER.decode(ids[span.start : span.end])
    assert answer[start:end] in within
    outside = TOKENIZER.decode(ids[: span.start]).strip()
    assert len(outside) <= start - first
    assert made.token_spans(answer, [Span(start=end, end=end)]) == []


def test_the_template_in_the_docs_writes_what_vicuna_was_trained_with() -> None:
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    template = text.partition("```jinja\n")[2].partition("```")[0]
    turns = [
        Message(role="system", content="A chat."),
        user_turn("What is this?", 1),
        assistant_turn("A square. "),
        user_turn("And now?", 0),
    ]
    end = TOKENIZER.eos_token
    said = (
        f"A chat. USER: <image>\nWhat is this? ASSISTANT: A square.{end}USER: And now? ASSISTANT:"
    )
    made = renderer(template)
    assert made.render(turns, open_turn=True) == said
    answer = made.answer(turns, "A circle.")
    whole = made.tokenize(f"{said} A circle.{end}")[0]
    assert answer.prompt_token_ids + answer.token_ids == whole
