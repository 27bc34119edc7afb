"""Conversations on both sides: the ids that the policy is asked, and those that are trained on."""

from typing import NamedTuple

from service.checkpoints.report import Example, Finding, Tokens, in_a_line
from service.rendering import BadConversation, Renderer
from service.schemas import Message, TextPart, assistant_turn, user_turn

QUESTION = "What is in the picture?"
ANSWER = "There is a red circle in the top left."
SYSTEM = "You describe pictures in few words."


class _Case(NamedTuple):
    name: str
    conversation: list[Message]
    answer: str


ONE_TURN = _Case("one turn", [user_turn(QUESTION, 1)], ANSWER)
TWO_TURNS = _Case(
    "two turns",
    [user_turn(QUESTION, 1), assistant_turn(ANSWER), user_turn("What is below it?", 0)],
    "A blue square.",
)
SYSTEM_PROMPT = _Case(
    "system prompt",
    [Message(role="system", content=[TextPart(text=SYSTEM)]), user_turn(QUESTION, 1)],
    ANSWER,
)


class Rendered(NamedTuple):
    """The examples, and what they show."""

    examples: list[Example]
    problems: list[Finding]
    notes: list[Finding]


def render_examples(renderer: Renderer) -> Rendered:
    """Renders each of the conversations that there are."""
    one, two, system = (_render(renderer, case) for case in (ONE_TURN, TWO_TURNS, SYSTEM_PROMPT))
    problems: list[Finding] = []
    notes: list[Finding] = []
    if one.refused:
        problems.append(_refusal(renderer, one.refused))
    else:
        problems += _ends(renderer, one)
        if two.refused:
            problems.append(
                Finding(
                    code="several_turns_refused",
                    message=f"Two turns cannot be rendered: {in_a_line(two.refused)}",
                    remedy="Ask single questions only, or give a template by --chat-template.",
                )
            )
        else:
            notes += _turns(renderer, two)
        notes += _system(renderer, system)
    return Rendered([one, two, system], problems, notes)


def as_tokens(renderer: Renderer, ids: list[int]) -> Tokens:
    """Ids with their text."""
    return Tokens(ids=ids, tokens=renderer.tokenizer.convert_ids_to_tokens(ids))


def _render(renderer: Renderer, case: _Case) -> Example:
    example = Example(name=case.name, conversation=case.conversation, answer=case.answer)
    try:
        prompt = renderer.prompt(case.conversation)
        trained = renderer.answer(case.conversation, case.answer)
    except BadConversation as refusal:
        return example.model_copy(update={"refused": str(refusal)})
    answer = as_tokens(renderer, trained.token_ids)
    ended = trained.token_ids[-1] in renderer.end_token_ids
    return example.model_copy(
        update={
            "prompt": as_tokens(renderer, prompt.token_ids),
            "trained_prompt": as_tokens(renderer, trained.prompt_token_ids),
            "trained_answer": answer,
            "end": answer.tokens[-1] if ended else None,
        }
    )


def _refusal(renderer: Renderer, reason: str) -> Finding:
    """Why a single question about a picture cannot be rendered."""
    image = renderer.image_token
    try:
        text = renderer.render(ONE_TURN.conversation, open_turn=True)
    except BadConversation:
        text = None
    if text is not None and image not in text:
        return Finding(
            code="no_image_placeholder",
            message=f"The chat template writes no {image!r} for a picture; it makes {text!r}.",
            remedy="Give a template that writes it for parts of type `image`, by --chat-template.",
        )
    return Finding(
        code="conversation_refused",
        message=f"A question about a picture cannot be rendered: {in_a_line(reason)}",
        remedy="Give a template that takes it by --chat-template.",
    )


def _ends(renderer: Renderer, example: Example) -> list[Finding]:
    """Whether the answer's end is one at which the model stops."""
    found: list[Finding] = []
    written = _written_end(renderer, example)
    if example.end is None:
        found.append(
            Finding(
                code="no_end_token",
                message="Nothing ends an answer: the tokenizer has no eos_token, and the chat "
                "template writes none. The policy never learns to stop.",
                remedy="Name the `eos_token` in tokenizer_config.json, or the id that ends a turn "
                "in generation_config.json (`eos_token_id`).",
            )
        )
    elif written is not None:
        found.append(
            Finding(
                code="end_unknown",
                message=f"The chat template ends an answer by {written!r}, at which the model does "
                f"not stop: it is not among its ends ({_names(renderer)}).",
                remedy="Add its id to `eos_token_id` in generation_config.json.",
            )
        )
    assert example.prompt is not None
    bos = renderer.tokenizer.bos_token_id
    if bos is not None and example.prompt.ids.count(bos) > 1:
        found.append(
            Finding(
                code="several_first_tokens",
                message=f"A prompt has {renderer.tokenizer.bos_token!r} several times: the chat "
                "template writes it, and the tokenizer does.",
                remedy="Give a template without it, or with nothing before it, by --chat-template.",
            )
        )
    return found


def _names(renderer: Renderer) -> str:
    ids = sorted(renderer.end_token_ids)
    return ", ".join(repr(token) for token in renderer.tokenizer.convert_ids_to_tokens(ids)) or "-"


def _written_end(renderer: Renderer, example: Example) -> str | None:
    """The special token that the template writes right behind an answer, if the model does not
    stop there."""
    turns = [*example.conversation, assistant_turn(example.answer)]
    text = renderer.render(turns, open_turn=False)
    behind = text[text.rindex(example.answer) + len(example.answer) :]
    ids, _ = renderer.tokenize(behind.lstrip())
    special = {*renderer.tokenizer.all_special_ids, *renderer.tokenizer.added_tokens_decoder}
    written = [
        token for token in ids if token in special and token != renderer.tokenizer.bos_token_id
    ]
    if not written or not renderer.end_token_ids.isdisjoint(written):
        return None
    return renderer.tokenizer.convert_ids_to_tokens(written[0])


def _turns(renderer: Renderer, example: Example) -> list[Finding]:
    """Whether an earlier answer ends as the last one does."""
    assert example.prompt is not None
    if example.end is None or not renderer.end_token_ids.isdisjoint(example.prompt.ids):
        return []
    return [
        Finding(
            code="earlier_turns_not_ended",
            message=f"Earlier answers of a conversation are not ended by {example.end!r}, as the "
            "last one is.",
            remedy="Vicuna was trained with it there. Give workers and trainers a template that "
            "writes it by --chat-template (docs/checkpoints.md).",
        )
    ]


def _system(renderer: Renderer, example: Example) -> list[Finding]:
    remedy = "Leave out system prompts, or give a template that takes them by --chat-template."
    if example.refused:
        message = f"A system prompt is refused: {in_a_line(example.refused)}"
        return [Finding(code="system_prompt_refused", message=message, remedy=remedy)]
    if SYSTEM not in renderer.render(example.conversation, open_turn=True):
        message = "A system prompt is left out by the chat template, without a word."
        return [Finding(code="system_prompt_dropped", message=message, remedy=remedy)]
    return []
