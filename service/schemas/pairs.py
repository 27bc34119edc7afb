"""Preference pairs, and pages of a run's log of them."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue

from service.schemas.base import Model, RunName
from service.schemas.conversation import Message, assistant_turn
from service.schemas.inputs import InputDigest
from service.schemas.outcomes import Outcome


class Span(Model):
    """Characters of a text, or tokens of a side: `start` to `end` (exclusive)."""

    start: int
    """Index of the first."""
    end: int
    """Index after the last."""


class Pair(Model):
    """A preference pair: TRL's conversational vision row, then how it came about."""

    prompt: list[Message]
    """The conversation up to the answer; it ends with a user turn."""
    images: list[str]
    """`sha256:<hex>` each; the bytes are at `GET /images/{sha256}`."""
    chosen: list[Message]
    """The better answer y⁺: one assistant turn."""
    rejected: list[Message]
    """The worse answer y⁻: one assistant turn."""
    pair_id: str
    """Of a job's first pair, the job's id; of its others, that and a suffix; of an offline pair,
    what the caller named it."""
    run: RunName | None
    """The run to whose log it went; null: it was asked for without one."""
    method: Literal["bdhs-attention", "bdhs-noise", "povid-token", "online", "offline"] | str
    """How it was made: `bdhs-attention` (image tokens hidden), `bdhs-noise` (noise on the pixels),
    `povid-token` (POVID's distortion), `online` (sampled, then ranked by an annotator), `offline`
    (of a data set)."""
    chosen_version: int | None
    """Weight version that wrote the side (the oldest, if several); null: from a data set."""
    rejected_version: int | None
    """As `chosen_version`, of the other side."""
    rejected_spans: list[Span]
    """What the model wrote, in characters of the text; what is outside is the reference's own."""
    chosen_token_ids: list[int] | None = None
    """Of a side that the policy wrote: its tokens as they were sampled, with the one that ended it.
    They are what is trained on; null: the text is."""
    rejected_token_ids: list[int] | None = None
    """As `chosen_token_ids`, of the other side. Of BDHS: of the whole answer, as it is rendered."""
    rejected_token_spans: list[Span] | None = None
    """Which of `rejected_token_ids` the policy wrote; null: all, or there are none."""
    chosen_logprobs: list[float] | None = None
    """Natural logarithm of each token's probability when it was sampled, before temperature and
    the like; null: not known, or the image was spoilt meanwhile (BDHS)."""
    rejected_logprobs: list[float] | None = None
    """As `chosen_logprobs`, of the other side."""
    chosen_tokens: int | None = None
    """How many tokens the side has, with the one that ends it; null: of a data set."""
    rejected_tokens: int | None = None
    """As `chosen_tokens`, of the other side."""
    chosen_finish_reason: str | None = None
    """`stop` (end of sequence or a stop string) or `length`; null: the policy did not write it."""
    rejected_finish_reason: str | None = None
    """As `chosen_finish_reason`; of BDHS, how the last sentence ended: also `sentence`."""
    chosen_logps: float | None = None
    """log p of the side, with the images: the sum over its tokens; null: `logps` was not asked."""
    rejected_logps: float | None = None
    """As `chosen_logps`, of the other side."""
    logps_version: int | None = None
    """Weight version that these two are of."""
    chosen_image_dependence: float | None = None
    """log p with the images less log p without them; null: not asked for, or no images."""
    rejected_image_dependence: float | None = None
    """As `chosen_image_dependence`, of the other side."""
    ref_chosen_logps: float | None = None
    """As `chosen_logps`, of version 0; null: not asked for (`ref_logps`)."""
    ref_rejected_logps: float | None = None
    """As `ref_chosen_logps`, of the other side."""
    input_digest: InputDigest | None = None
    """How the worker made tokens and pixels of it; null: of a data set, or of an older release."""
    similarity: float | None
    """Cosine similarity of the two sides, from -1 to 1; null: not of BDHS."""
    iterations: int | None
    """Times that BDHS drew the whole answer; null: not of BDHS."""
    seed: int | None
    """Of everything that was drawn for it; null: of a data set."""
    settings: dict[str, JsonValue] = {}
    """The request's other settings that shaped it, by name. With the seed and the version of the
    weights, enough to make the same pair again (`prefstream replay`)."""
    created_at: datetime
    """When it was made, or appended."""
    metadata: dict[str, JsonValue] = {}
    """The request's, as it was given."""

    @classmethod
    def offline(
        cls,
        *,
        prompt: list[Message],
        images: list[str],
        chosen: str,
        rejected: str,
        pair_id: str,
        run: RunName | None,
        created_at: datetime,
        metadata: dict[str, JsonValue],
    ) -> Self:
        """A pair of a data set: no policy wrote a side of it."""
        return cls(
            prompt=prompt,
            images=images,
            chosen=[assistant_turn(chosen)],
            rejected=[assistant_turn(rejected)],
            pair_id=pair_id,
            run=run,
            method="offline",
            chosen_version=None,
            rejected_version=None,
            rejected_spans=[],
            similarity=None,
            iterations=None,
            seed=None,
            created_at=created_at,
            metadata=metadata,
        )


class PairsPage(Model):
    """A page of a run's log."""

    pairs: list[Pair]
    """In the order in which they were made."""
    cursor: str
    """Pass it as `after` to read on."""


class FilteredPair(Model):
    """A pair that a run left out."""

    pair: Pair
    """As it would have been appended."""
    filters: list[str]
    """Names of the filters that it lies beyond; `similar` is the run's setting of that name."""


class FilteredPage(Model):
    """A page of what a run left out."""

    pairs: list[FilteredPair]
    """In the order in which they were made."""
    cursor: str
    """Pass it as `after` to read on."""


class Appended(Model):
    """The answer to a `PairRequest`."""

    run: RunName
    """The run to whose log it went."""
    pair_id: str
    """As it was given, or drawn."""
    repeated: bool
    """The run was given this pair before, and nothing was appended."""
    outcome: Annotated[Outcome | str, Field(union_mode="left_to_right")] = Outcome.pair
    """`pair`, or `filtered`: it lies beyond a filter of the run, and was kept apart."""
    filters: list[str] = []
    """Names of those filters."""
