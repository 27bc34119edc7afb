"""What a job made: responses, their ranking, pairs."""

from typing import Annotated, Any, Literal, cast

from pydantic import (
    Discriminator,
    Field,
    JsonValue,
    RootModel,
    Tag,
    model_validator,
)

from service.schemas.base import TOLERANT, AnnotatorName, Model
from service.schemas.outcomes import Outcome
from service.schemas.pairs import Pair
from service.schemas.traces import BdhsTrace, WeightSpan


class TokenLogprob(Model):
    """A token, and how likely it was."""

    token_id: int
    """Its number in the tokenizer's vocabulary."""
    token: str
    """Its text."""
    logprob: float
    """Natural logarithm of its probability."""


class Response(Model):
    """One sampled response."""

    text: str
    """Decoded, without special tokens."""
    finish_reason: str
    """`stop` (end of sequence or a stop string), `length`, or `sentence` (`stop_at`)."""
    token_ids: list[int]
    """As the engine wrote them."""
    logprobs: list[list[TokenLogprob]] | None = None
    """For each token: first the sampled one, then the asked alternatives, most likely first."""
    weight_versions: list[WeightSpan]
    """Who wrote it."""

    @property
    def oldest_version(self) -> int:
        """Of the weights that wrote it; 0 if nothing was written."""
        return min((span.version for span in self.weight_versions), default=0)


class Judgement(Model):
    """What the annotator said of two responses."""

    first: int
    """Index of the response that it saw first."""
    second: int
    """Index of the other."""
    choice: Literal["first", "second", "tie", "unreadable"] | str
    """`first`, `second`, `tie`, or `unreadable`: its words were no verdict."""
    text: str
    """Its words, as far as they are kept."""


class Annotation(Model):
    """How the responses were ranked, so that anyone can check it."""

    annotator: AnnotatorName
    """Who ranked them."""
    judge: str
    """The model that judged, or the version of the policy."""
    judgements: list[Judgement]
    """In the order in which they were asked for."""
    chosen: int | None
    """Index of the better response of the pair; null: there is no pair."""
    rejected: int | None
    """Index of the worse one."""


ReadOutcome = Annotated[Outcome | str, Field(union_mode="left_to_right")] | None


def _of_one_pair(data: Any) -> Any:
    """Results stored before a job could make several pairs."""
    if isinstance(data, dict) and "pair" in data and "pairs" not in data:
        result: dict[str, Any] = {**data}
        pair = result.pop("pair")
        return result | {"pairs": [pair] if pair else []}
    return cast(Any, data)


class SampleResult(Model):
    """What `POST /sample` made."""

    kind: Literal["sample"] = "sample"
    """`sample`."""
    responses: list[Response]
    """As many as were asked for."""
    seed: int
    """Given or drawn: with it, and the same weights, the same responses are made."""
    annotation: Annotation | None = None
    """How they were ranked; null: without an `annotator`."""
    outcome: ReadOutcome = None
    """What came of the ranking; null: no pair was asked for."""
    pairs: list[Pair] = []
    """What the annotation came to; empty: no pair, as `outcome` says."""

    _stored_with_one = model_validator(mode="before")(_of_one_pair)


class BdhsResult(Model):
    """What `POST /bdhs` made."""

    kind: Literal["bdhs"] = "bdhs"
    """`bdhs`."""
    outcome: ReadOutcome = None
    """What came of it; null: of an older release."""
    pairs: list[Pair]
    """The reference as chosen, what the policy made of it as rejected; empty: no pair, as `outcome`
    says."""
    text: str | None = None
    """What the policy made of the reference, pair or not; null: of an older release."""
    similarity: float | None = None
    """Of that text to the reference, from -1 to 1."""
    iterations: int | None = None
    """Times that the whole answer was drawn."""
    trace: BdhsTrace | None
    """How they came about; null: `trace` = none."""

    _stored_with_one = model_validator(mode="before")(_of_one_pair)


class ViewLogprobs(Model):
    """How likely a response is under one view of the images."""

    sum: float
    """Natural logarithm of its probability: the sum over its tokens."""
    mean: float
    """That, for each token."""
    tokens: list[float] | None = None
    """Of each token; null: not asked for (`tokens`)."""
    weight_version: int
    """Whose opinion it is."""


class ScoredResponse(Model):
    """A given response, and how likely the policy finds it."""

    token_ids: list[int]
    """What was scored, with the token that ends it where that counts."""
    views: list[ViewLogprobs]
    """In the order of the request's `views`."""
    image_dependence: float | None
    """log p with the whole images less log p without them, summed over its tokens; null: `views`
    has not both."""


class LogprobsResult(Model):
    """What `POST /logprobs` found."""

    kind: Literal["logprobs"] = "logprobs"
    """`logprobs`."""
    responses: list[ScoredResponse]
    """In the order of the request."""
    seed: int
    """Given or drawn: with it, the same tokens are hidden and the same noise is added."""

    @property
    def outcome(self) -> None:
        """It makes no pair."""
        return None

    @property
    def pairs(self) -> list[Pair]:
        """None."""
        return []


class UnknownResult(RootModel[dict[str, JsonValue]]):
    """A result of a kind that a later version has: as it came."""

    @property
    def kind(self) -> str:
        """Which kind."""
        return str(self.root.get("kind"))

    @property
    def outcome(self) -> str | None:
        """What came of it, where it could make a pair."""
        outcome = self.root.get("outcome")
        return outcome if isinstance(outcome, str) else None

    @property
    def pairs(self) -> list[Pair]:
        """Every kind of result has them."""
        pairs = self.root.get("pairs") or []
        assert isinstance(pairs, list)
        return [Pair.model_validate(pair, **TOLERANT) for pair in pairs]


def _kind(result: Any) -> str:
    fields: dict[str, Any] = {**result} if isinstance(result, dict) else {}
    kind = fields["kind"] if "kind" in fields else getattr(cast(Any, result), "kind", None)
    return kind if kind in ("sample", "bdhs", "logprobs") else "unknown"


Result = Annotated[
    Annotated[SampleResult, Tag("sample")]
    | Annotated[BdhsResult, Tag("bdhs")]
    | Annotated[LogprobsResult, Tag("logprobs")]
    | Annotated[UnknownResult, Tag("unknown")],
    Discriminator(_kind),
]
