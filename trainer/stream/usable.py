"""Whether a row can be trained on, found out before a step has it.

What goes through here goes through the collator and the model: a row that does not would end the
training, come back with its lease, and end it again.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import structlog
from prometheus_client import Counter

from service import images
from service.checkpoints.input_processor import InputProcessor
from service.rendering import Answer, BadConversation
from trainer.stream.rows import Row

log = structlog.get_logger()

Reason = Literal["image gone", "image unreadable", "text", "empty", "too long", "no second side"]

LEFT_OUT = Counter(
    "prefstream_trainer_left_out", "Pairs that could not be trained on, by reason.", ["reason"]
)

IMAGES_KNOWN = 128
"""Images whose tokens are remembered; questions about one tend to come together."""

TELL_AFTER = 32
"""Pairs in a row that cannot be used, after which that is said as an error; then after twice as
many, and so on."""


class UnusableRow(Exception):
    """A row that cannot be trained on, now or ever."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail


class RowCheck:
    """Of one checkpoint's inputs."""

    def __init__(self, inputs: InputProcessor) -> None:
        self._inputs = inputs
        self._image_tokens = lru_cache(maxsize=IMAGES_KNOWN)(self._tokens_of_image)

    def check(self, row: Row) -> None:
        """Raises: UnusableRow."""
        shown = row.images if row.rejected_images is None else row.rejected_images
        tokens = [[self._image_tokens(content) for content in side] for side in (row.images, shown)]
        try:
            answers = self._inputs.renderer.pair_answers(row.pair)
        except BadConversation as error:
            raise UnusableRow("text", str(error)) from error
        except Exception as error:  # whatever a tokenizer raises is about this text
            raise UnusableRow("text", f"{type(error).__name__}: {error}") from error
        for answer, of_images in zip(answers, tokens, strict=True):
            self._check_side(answer, of_images)

    def _check_side(self, answer: Answer, of_images: Sequence[Sequence[int]]) -> None:
        if not answer.token_ids:
            raise UnusableRow("empty", "a side has no tokens")
        places = answer.prompt_token_ids.count(self._inputs.renderer.image_token_id)
        if places != len(of_images):
            raise UnusableRow("text", f"{places} places for images, but {len(of_images)} images")
        prompt = self._inputs.with_images(answer.prompt_token_ids, iter(of_images))
        feature = self._inputs.feature_token_id
        features = sum(tokens.count(feature) for tokens in of_images)
        if (prompt + answer.token_ids).count(feature) != features:
            raise UnusableRow("text", "it contains the token of an image's features")
        length, most = len(prompt) + len(answer.token_ids), self._inputs.max_tokens
        if most is not None and length > most:
            pictured = sum(map(len, of_images))
            raise UnusableRow(
                "too long",
                f"{length} tokens, {pictured} of them of images; the model has {most} positions",
            )

    def _tokens_of_image(self, content: bytes) -> list[int]:
        try:
            [tokens], _ = self._inputs.process_images([images.decode_rgb(content)])
        except Exception as error:  # whatever decoder and processor raise is about this picture
            raise UnusableRow("image unreadable", f"{type(error).__name__}: {error}") from error
        return tokens


class LeftOut:
    """Counts and says which pairs were left out, and that none is any good, if it is so."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._reasons: dict[str, int] = {}
        self._tell_at = TELL_AFTER

    def add(self, pair_id: str, why: UnusableRow) -> None:
        LEFT_OUT.labels(why.reason).inc()
        log.warning("pair left out", pair=pair_id, reason=why.reason, detail=why.detail)
        self._in_a_row += 1
        self._reasons[why.reason] = self._reasons.get(why.reason, 0) + 1
        if self._in_a_row == self._tell_at:
            self._tell_at *= 2
            log.error(
                "no pair can be trained on",
                last=self._in_a_row,
                reasons=dict(self._reasons),
                latest=why.detail,
            )

    def used(self) -> None:
        """A pair was good."""
        self._in_a_row, self._reasons, self._tell_at = 0, {}, TELL_AFTER
