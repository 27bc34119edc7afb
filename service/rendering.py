"""From conversations to token ids, exactly: what the policy is asked, scored and trained on.

Worker and trainer both render by this module, so that what one of them asks and what the other
learns is one sequence: the beginning-of-sequence token where the tokenizer puts one, every turn as
the checkpoint's own chat template has it, and the end of the last one where the model ends it.

Text is rendered and tokenised whole; what ends inside an answer is a slice of those ids, so that
what stands before the cut is tokenised as it is in the whole answer. Rendering pieces instead gives
other tokens for many cuts.
"""

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from os.path import commonprefix
from typing import Any

from service.schemas import ImagePart, Message, Pair, Span, assistant_turn


class BadConversation(ValueError):
    """The conversation, or an answer to it, cannot be rendered for this checkpoint."""


MAX_ANSWERS = 64
"""Answers to one prompt that are kept rendered."""

Offset = tuple[int, int]
"""Index of the first character, and that after the last."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A conversation's answer in token ids, as it is scored and trained on."""

    prompt_token_ids: list[int]
    """All that stands before it, with one placeholder for each image."""
    token_ids: list[int]
    """The answer, with the token that ends its turn, where it has one."""


@dataclass(frozen=True, slots=True)
class _Rendered:
    """A conversation with an answer, as text and as tokens."""

    text: str
    start: int
    """Character of `text` at which the answer starts, as it was given."""
    token_ids: list[int]
    offsets: list[Offset]
    """Characters of `text` that each token stands for."""

    token_ends: list[int]
    """Of `offsets`, the second ones; ascending."""


class Renderer:
    """A checkpoint's chat template and tokenizer."""

    def __init__(
        self,
        tokenizer: Any,
        template: str,
        *,
        image_token_id: int,
        takes_parts: bool = True,
        end_token_ids: Collection[int] = (),
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            tokenizer: transformers', a fast one: it must tell at which character a token ends.
            template: of chats, in Jinja.
            image_token_id: of the placeholder that stands once for each image.
            takes_parts: whether the template looks at the parts of a message and writes the
                placeholder itself. Else it is given texts, which begin with a line for each image.
            end_token_ids: at which the model stops, such as its generation config's
                `eos_token_id`; the tokenizer's own is always one.
            template_kwargs: variables of the template, such as `enable_thinking`.
        """
        self.tokenizer = tokenizer
        self.image_token_id = image_token_id
        self._takes_parts = takes_parts
        own = tokenizer.eos_token_id
        self.end_token_ids: frozenset[int] = frozenset(
            {*end_token_ids, *([] if own is None else [own])}
        )
        self._template = template
        self._template_kwargs = dict(template_kwargs or {})

    @property
    def image_token(self) -> str:
        """The placeholder of an image, as the template writes it."""
        return self.tokenizer.convert_ids_to_tokens(self.image_token_id)

    def prompt(self, conversation: Sequence[Message]) -> "Prompt":
        """The conversation, ready to be answered. Raises: BadConversation."""
        return Prompt(self, conversation)

    def answer(
        self,
        conversation: Sequence[Message],
        text: str,
        *,
        token_ids: Sequence[int] | None = None,
        ended: bool = True,
    ) -> Answer:
        """An answer as it is trained on: by its ids, if a policy wrote it, or else by its text.

        Args:
            token_ids: what the policy wrote in answer to the conversation, or null.
            ended: whether the turn ends with the text. Ids say so themselves.

        Raises: BadConversation.
        """
        prompt = self.prompt(conversation)
        # A policy may write the placeholder of an image. No picture belongs to it, so the text
        # counts, which is without.
        if token_ids is None or self.image_token_id in token_ids:
            return prompt.answer(text, ended=ended)
        return Answer(prompt.token_ids, self._up_to_end(token_ids))

    def pair_answers(self, pair: Pair) -> tuple[Answer, Answer]:
        """The chosen and the rejected side, as they are scored and trained on.

        Raises: BadConversation.
        """
        chosen = self.answer(
            pair.prompt,
            pair.chosen[-1].text,
            token_ids=pair.chosen_token_ids,
            ended=pair.chosen_finish_reason != "length",
        )
        rejected = self.answer(
            pair.prompt,
            pair.rejected[-1].text,
            token_ids=pair.rejected_token_ids,
            ended=pair.rejected_finish_reason != "length",
        )
        return chosen, rejected

    def _up_to_end(self, token_ids: Sequence[int]) -> list[int]:
        """Nothing after an end is learnt."""
        ends = (place for place, token in enumerate(token_ids) if token in self.end_token_ids)
        return list(token_ids[: next(ends, len(token_ids)) + 1])

    def render(self, conversation: Sequence[Message], *, open_turn: bool) -> str:
        """The conversation as text; `open_turn`: with the assistant's turn opened behind it.

        Raises: BadConversation.
        """
        messages = [{"role": m.role, "content": self._content(m)} for m in conversation]
        try:
            return self.tokenizer.apply_chat_template(
                messages,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=open_turn,
                **self._template_kwargs,
            )
        except Exception as error:  # templates raise what they like
            raise BadConversation(f"the model's chat template refuses it: {error}") from error

    def _content(self, message: Message) -> Any:
        """A message's content as the template takes it."""
        if self._takes_parts:
            return [part.model_dump() for part in message.parts]
        images = [self.image_token for part in message.parts if isinstance(part, ImagePart)]
        texts = [part.text for part in message.parts if not isinstance(part, ImagePart)]
        return "\n".join([*images, *texts])

    def tokenize(self, text: str) -> tuple[list[int], list[Offset]]:
        """Token ids of a rendered text, and the characters that each stands for."""
        bos = self.tokenizer.bos_token
        encoded = self.tokenizer(
            text,
            # As transformers' processors do: templates that write the first token themselves
            # must not get another.
            add_special_tokens=bos is None or not text.startswith(bos),
            return_offsets_mapping=True,
        )
        ids, offsets = list(encoded["input_ids"]), list(encoded["offset_mapping"])
        if ids and ids[-1] in self.end_token_ids and offsets[-1] == (0, 0):
            del ids[-1], offsets[-1]  # some tokenizers end every text so; the turn may be open
        return ids, offsets


class Prompt:
    """A conversation, rendered once, and the answers that continue it."""

    def __init__(self, renderer: Renderer, conversation: Sequence[Message]) -> None:
        """Raises: BadConversation."""
        self._renderer = renderer
        self._conversation = list(conversation)
        self._opening = renderer.render(self._conversation, open_turn=True)
        self._answers: dict[str, _Rendered] = {}
        self.token_ids = renderer.tokenize(self._opening)[0]
        """The conversation with the assistant's turn opened; one placeholder for each image."""
        images = sum(isinstance(part, ImagePart) for m in conversation for part in m.parts)
        placeholders = self.token_ids.count(renderer.image_token_id)
        if placeholders != images:
            raise BadConversation(
                f"{images} images, but {placeholders} image placeholders once rendered: does the "
                f"text itself contain {renderer.image_token!r}?"
            )

    def _rendered(self, answer: str) -> _Rendered:
        if answer not in self._answers:
            turns = [*self._conversation, assistant_turn(answer)]
            text = self._renderer.render(turns, open_turn=False)
            # The answer begins where the opened turn ends. Templates may trim it.
            body = answer.strip()
            opened = commonprefix([text, self._opening])  # noqa: RUF071  of characters it is
            start = text.find(body, len(opened))
            if start < 0:
                raise BadConversation("the model's chat template changes the answer's text")
            if opened != self._opening:
                # The template opens a turn in other words than it tells one: an empty train of
                # thought, say. What the policy is asked counts.
                text = self._opening + text[start:]
                start = len(self._opening)
            tokens = self._renderer.tokenize(text)
            ends = list(accumulate((end for _, end in tokens[1]), max))
            self._answers[answer] = _Rendered(text, start - answer.index(body), *tokens, ends)
            if len(self._answers) > MAX_ANSWERS:
                del self._answers[next(iter(self._answers))]
        rendered = self._answers[answer] = self._answers.pop(answer)  # the last used is the last
        return rendered

    def token_ends(self, answer: str) -> set[int]:
        """Character positions of `answer` at which a token ends."""
        whole = self._rendered(answer)
        return {e - whole.start for e in whole.token_ends if 0 < e - whole.start <= len(answer)}

    def token_ids_up_to(self, answer: str, cut: int) -> list[int]:
        """Ids of the conversation and the first `cut` characters of the answer to it."""
        return self.token_ids if cut == 0 else self._tokens_up_to(answer, cut)[0]

    def token_ids_before_continuing(self, answer_start: str) -> list[int]:
        """Ids of the conversation and the start of an answer, which goes on from there; white space
        at its end is left to what comes.

        Raises: BadConversation.
        """
        if not answer_start.strip():
            return self.token_ids
        before = self.answer(answer_start, ended=False)
        return before.prompt_token_ids + before.token_ids

    def answer_start(self, answer: str, cut: int) -> list[int] | None:
        """Ids of the first `cut` characters of the answer, which stand behind `token_ids`; None:
        a token takes in the end of what opens the turn, so no ids do."""
        ids, before = self.token_ids_up_to(answer, cut), len(self.token_ids)
        return ids[before:] if ids[:before] == self.token_ids else None

    def _tokens_up_to(self, answer: str, cut: int) -> tuple[list[int], list[Offset]]:
        """Those ids, and the characters of the rendered text that each stands for."""
        whole = self._rendered(answer)
        end = whole.start + cut
        ends = whole.token_ends
        count = bisect_right(ends, end)
        if not count or ends[count - 1] != end:
            # It goes through a token: no slice of the whole ends there.
            return self._renderer.tokenize(whole.text[:end])
        return whole.token_ids[:count], whole.offsets[:count]

    def _tokens_with(self, answer: str) -> tuple[list[int], list[Offset], int]:
        """Ids of the conversation and the whole answer, without what closes the turn; what each
        stands for; and how many of them stand before the answer.

        A first token that takes in the end of what opens the turn is of the answer.
        """
        ids, offsets = self._tokens_up_to(answer, len(answer.rstrip()))
        return ids, offsets, len(commonprefix([ids, self.token_ids]))  # noqa: RUF071  of ids it is

    def token_ids_with(self, answer: str) -> tuple[list[int], int]:
        """Ids of the conversation and the whole answer to it, without what closes the turn; and
        how many of them stand before the answer's first character."""
        whole = self._rendered(answer)
        body = whole.start + answer.index(answer.strip())
        ids = self._tokens_up_to(answer, len(answer.rstrip()))[0]
        return ids, sum(end <= body for end in whole.token_ends)

    def answer(self, text: str, *, ended: bool = True) -> Answer:
        """The answer as it is trained on; `ended`: with the token that ends its turn.

        Raises: BadConversation.
        """
        ids, _, before = self._tokens_with(text)
        if self._renderer.image_token_id in ids[before:]:
            image = self._renderer.image_token
            raise BadConversation(f"the answer contains the image placeholder {image}")
        end = self._end(text) if ended else None
        return Answer(ids[:before], ids[before:] + ([] if end is None else [end]))

    def _end(self, answer: str) -> int | None:
        """The token that ends this answer's turn: what the template writes behind it, or else the
        tokenizer's own; None: the model has none."""
        whole = self._rendered(answer)
        answer_end = whole.start + len(answer.rstrip())
        for token, end in zip(whole.token_ids, whole.token_ends, strict=True):
            if end > answer_end and token in self._renderer.end_token_ids:
                return token
        return self._renderer.tokenizer.eos_token_id

    def token_spans(self, answer: str, spans: Sequence[Span]) -> list[Span]:
        """Which of `answer(text).token_ids` hold characters of each span of the text; one that
        holds none is left out."""
        start = self._rendered(answer).start
        _, offsets, before = self._tokens_with(answer)
        tokens = [(begin - start, end - start) for begin, end in offsets[before:]]
        within = [
            [i for i, (begin, end) in enumerate(tokens) if begin < span.end and end > span.start]
            for span in spans
            if span.start < span.end
        ]
        return [Span(start=those[0], end=those[-1] + 1) for those in within if those]
