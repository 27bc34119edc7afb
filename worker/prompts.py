"""From conversations to token ids, exactly.

Text is rendered by the checkpoint's own chat template and tokenised whole; a prompt that ends
inside an answer is a slice of those ids, so that what stands before the cut is tokenised as it is
in the whole answer. Rendering pieces instead gives other tokens for many cuts.
"""

from collections.abc import Sequence
from os.path import commonprefix
from typing import Any

from service.schemas import ImagePart, Message, assistant_turn


class BadConversation(ValueError):
    """The checkpoint's chat template refused the conversation."""


class Prompt:
    """A conversation, rendered once, and the answers that continue it."""

    def __init__(self, tokenizer: Any, conversation: Sequence[Message], image_token_id: int):
        self._tokenizer = tokenizer
        self._conversation = list(conversation)
        self._image_token_id = image_token_id
        self._opening = self._render(self._conversation, open_turn=True)
        self._answers: dict[str, tuple[int, list[int], list[int]]] = {}
        self.token_ids = self._tokenize(self._opening)[0]
        """The conversation with the assistant's turn opened; one placeholder for each image."""
        images = sum(isinstance(part, ImagePart) for m in conversation for part in m.parts)
        placeholders = self.token_ids.count(image_token_id)
        if placeholders != images:
            raise BadConversation(
                f"{images} images, but {placeholders} image placeholders once rendered: does the "
                f"text itself contain {tokenizer.convert_ids_to_tokens(image_token_id)!r}?"
            )

    def _render(self, conversation: Sequence[Message], *, open_turn: bool) -> str:
        messages = [
            {"role": m.role, "content": [p.model_dump() for p in m.parts]} for m in conversation
        ]
        try:
            return self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=open_turn
            )
        except Exception as error:  # templates raise what they like
            raise BadConversation(f"the model's chat template refuses it: {error}") from error

    def _tokenize(self, text: str) -> tuple[list[int], list[int]]:
        """Token ids, and the character at which each token ends."""
        bos = self._tokenizer.bos_token
        encoded = self._tokenizer(
            text,
            # As transformers' processors do: templates that write the first token themselves
            # must not get another.
            add_special_tokens=bos is None or not text.startswith(bos),
            return_offsets_mapping=True,
        )
        return encoded["input_ids"], [end for _, end in encoded["offset_mapping"]]

    def _answer(self, answer: str) -> tuple[int, list[int], list[int]]:
        """Where the answer starts in the rendered text, the ids of all, and their ends."""
        if answer not in self._answers:
            text = self._render([*self._conversation, assistant_turn(answer)], open_turn=False)
            # The answer begins where the opened turn ends. Templates may trim it.
            body = answer.strip()
            opened = commonprefix([text, self._opening])  # noqa: RUF071  of characters it is
            found = text.find(body, len(opened))
            if found < 0:
                raise BadConversation("the model's chat template changes the reference's text")
            self._answers[answer] = (found - answer.index(body), *self._tokenize(text))
        return self._answers[answer]

    def token_ends(self, answer: str) -> set[int]:
        """Character positions of `answer` at which a token ends."""
        start, _, ends = self._answer(answer)
        return {end - start for end in ends if 0 < end - start <= len(answer)}

    def token_ids_up_to(self, answer: str, cut: int) -> list[int]:
        """Ids of the conversation and the first `cut` characters of the answer to it."""
        if cut == 0:
            return self.token_ids
        start, ids, ends = self._answer(answer)
        if cut in self.token_ends(answer):
            return ids[: max(i for i, end in enumerate(ends) if end <= start + cut) + 1]
        # The cut goes through a token: no slice of the whole ends there.
        text = self._render([*self._conversation, assistant_turn(answer)], open_turn=False)
        return self._tokenize(text[: start + cut])[0]

    def token_ids_with(self, answer: str) -> tuple[list[int], int]:
        """Ids of the conversation and the whole answer to it, without what closes the turn; and
        how many of them stand before the answer."""
        start, _, ends = self._answer(answer)
        body = start + answer.index(answer.strip())
        return self.token_ids_up_to(answer, len(answer.rstrip())), sum(end <= body for end in ends)

    def without_images(self, token_ids: Sequence[int]) -> list[int]:
        """The ids less the image placeholders: what an empty mask leaves."""
        return [token for token in token_ids if token != self._image_token_id]
