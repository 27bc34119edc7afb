"""Every model that crosses a border: requests, jobs, results, pairs, runs, problems.

Field names follow vLLM, TRL and the OpenAI API where those have one, and the paper's words
(arXiv 2407.02477) elsewhere. Unknown fields are refused, so that a misspelt setting is an error
and not a silent default.
"""

import json
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    field_validator,
    model_validator,
)

RunName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""A run's name: letters, digits, dot, underscore, hyphen; at most 64 characters."""

GroupName = RunName
"""A subscriber group's name, as a run's."""

AnnotatorName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9._-]{0,63}$")]

MAX_SEED = 2**63 - 1

MAX_RANKED = 8
"""Responses that an annotator ranks, at most: it compares every two of them."""


class Model(BaseModel):
    """A wire model: unknown fields are an error; NaN and infinity are no numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


# --- conversations ------------------------------------------------------------------------------


class TextPart(Model):
    type: Literal["text"] = "text"
    text: str


class ImagePart(Model):
    """The place of the next image of `images`, in order."""

    type: Literal["image"] = "image"


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(Model):
    """One turn, as in TRL's conversational format. Images stand apart, in `images`."""

    role: Literal["system", "user", "assistant"]
    content: str | list[Part]

    @property
    def parts(self) -> list[TextPart | ImagePart]:
        if isinstance(self.content, str):
            return [TextPart(text=self.content)]
        return self.content

    @property
    def text(self) -> str:
        """Its text, without the images."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


def user_turn(prompt: str, images: int) -> Message:
    """The conversation that a bare `prompt` stands for: the images, then the text."""
    parts: list[Part] = [ImagePart() for _ in range(images)]
    return Message(role="user", content=[*parts, TextPart(text=prompt)])


def assistant_turn(text: str) -> Message:
    return Message(role="assistant", content=[TextPart(text=text)])


# --- requests -----------------------------------------------------------------------------------


class Priority(StrEnum):
    high = "high"
    normal = "normal"
    low = "low"


class Prompted(Model):
    """What asks something of a model, or records that it was asked: text, perhaps with images."""

    prompt: str | None = None
    """The user's text. Either this or `messages`."""
    messages: list[Message] | None = Field(default=None, min_length=1)
    """A conversation that ends with a user turn. Either this or `prompt`."""
    images: list[str] = []
    """Each a data URI, bare base64, or `sha256:<hex>` of an image that is stored already."""
    metadata: dict[str, JsonValue] = {}
    """Handed through to the job and the pair, unread."""

    @field_validator("metadata")
    @classmethod
    def _finite(cls, metadata: dict[str, JsonValue]) -> dict[str, JsonValue]:
        json.dumps(metadata, allow_nan=False)  # FastAPI forgets `allow_inf_nan` inside JsonValue
        return metadata

    @model_validator(mode="after")
    def _one_conversation(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either `prompt` or `messages`, and not both")
        if self.prompt is not None and not self.prompt.strip():
            raise ValueError("`prompt` is empty")
        if self.messages is not None:
            if self.messages[-1].role != "user":
                raise ValueError("`messages` must end with a user turn")
            places = sum(isinstance(p, ImagePart) for m in self.messages for p in m.parts)
            if places != len(self.images):
                raise ValueError(
                    f"`messages` has {places} image parts, and `images` has {len(self.images)}"
                )
        return self

    @property
    def conversation(self) -> list[Message]:
        """`messages`, or what `prompt` stands for."""
        if self.messages is not None:
            return self.messages
        assert self.prompt is not None  # the validator's promise
        return [user_turn(self.prompt, len(self.images))]

    @property
    def texts(self) -> list[str]:
        """All that a model might have to read."""
        if self.prompt is not None:
            return [self.prompt]
        return [p.text for m in self.conversation for p in m.parts if isinstance(p, TextPart)]


class JobRequest(Prompted):
    """What both kinds of job have in common."""

    temperature: float = Field(default=1.0, ge=0.0, le=10.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0)
    """0: all tokens."""
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    max_tokens: int = Field(default=512, ge=1, le=32768)
    """New tokens at most; for BDHS, for each sentence."""
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    """Drawn, and stated in the result, when left out."""
    weight_version: int | None = Field(default=None, ge=0)
    """Run on this version of the weights, to make a response again; 0 is the model that the worker
    was started with. null: on the newest."""
    run: RunName | None = None
    """The run to whose log the pair goes."""
    priority: Priority = Priority.normal
    deadline_s: float | None = Field(default=None, gt=0, le=7 * 24 * 3600)
    """Seconds from acceptance after which the job is not worth running."""


class SampleRequest(JobRequest):
    """`POST /sample`: n responses of the policy to a prompt, with or without images."""

    n: int = Field(default=1, ge=1, le=64)
    stop: list[str] = Field(default=[], max_length=16)
    logprobs: int | None = Field(default=None, ge=0, le=20)
    """Log-probabilities of each response token and of this many alternatives."""
    annotator: AnnotatorName | None = None
    """Who ranks the responses into a pair: `self` (the policy), `openai` (an endpoint that the
    workers are set up with), or the name of an annotator in Python that the workers have."""
    orders: Literal["both", "random"] = "both"
    """The annotator sees every two responses in both orders, and must decide alike; or once, in an
    order drawn from the seed."""

    @model_validator(mode="after")
    def _ranking(self) -> Self:
        if self.annotator is None:
            if self.orders != "both":
                raise ValueError("`orders` has no effect without an `annotator`")
        elif not 2 <= self.n <= MAX_RANKED:
            raise ValueError(f"an annotator ranks 2 to {MAX_RANKED} responses, and `n` is {self.n}")
        return self

    @property
    def texts(self) -> list[str]:
        return [*super().texts, *self.stop]

    @property
    def settings(self) -> dict[str, JsonValue]:
        """What shapes the pair, beside the conversation, the seed, the weights."""
        return self.model_dump(mode="json", include=RANKING)


class BdhsRequest(JobRequest):
    """`POST /bdhs`: a rejected response made from a trusted one (the paper's section on BDHS)."""

    reference: str
    """The trusted answer y⁺, which becomes the chosen side."""
    corruption: Literal["attention", "noise", "attention+noise"] = "attention"
    """How the view of the image is spoilt: hide image tokens from attention, add diffusion noise to
    the pixels, or both."""
    guidance: Literal["sentence", "none", "token"] = "sentence"
    """`sentence`: complete each sentence of the reference; `none`: generate freely; `token`:
    predict every token after the reference's true ones (POVID's distortion; noise only)."""
    rho: float = Field(default=0.99, ge=0.0, le=1.0)
    """ρ_th: an image token stays visible where U(0,1) ≥ ρ_th. 0 hides nothing, 1 everything."""
    noise_steps: int = Field(default=500, ge=1, le=1000)
    """N of the diffusion schedule, for `noise` (paper: 100 to 500)."""
    max_iterations: int = Field(default=5, ge=1, le=20)
    """N_BDHS. When above 1, the last iteration of `sentence` guidance is unguided, and taken as it
    is."""
    similarity_threshold: float = Field(default=0.97, ge=-1.0, le=1.0)
    """ε_s: cosine similarity to the reference at or above which everything is drawn again."""
    swap_yes_no: bool = True
    """Swap a leading yes or no for its counterpart with probability 1/2, before the cut."""
    trace: Literal["none", "summary", "full"] = "summary"
    """How much of what was drawn the result carries; `full` adds token ids."""

    @model_validator(mode="after")
    def _one_image(self) -> Self:
        if len(self.images) != 1:
            raise ValueError(f"BDHS takes exactly one image, not {len(self.images)}")
        if not self.reference.strip():
            raise ValueError("`reference` is empty")
        return self

    @model_validator(mode="after")
    def _settings_that_go_together(self) -> Self:
        """What would have no effect is refused: whoever set it expects one."""
        fields = type(self).model_fields
        if self.guidance == "token" and self.corruption != "noise":
            raise ValueError(
                "`guidance` = token is POVID's distortion, which goes with `corruption` = noise, "
                f"not {self.corruption}"
            )
        if self.rho != fields["rho"].default and not self.hides_tokens:
            raise ValueError(f"`rho` has no effect with `corruption` = {self.corruption}")
        if self.noise_steps != fields["noise_steps"].default and not self.adds_noise:
            raise ValueError(f"`noise_steps` has no effect with `corruption` = {self.corruption}")
        return self

    @property
    def texts(self) -> list[str]:
        return [*super().texts, self.reference]

    @property
    def settings(self) -> dict[str, JsonValue]:
        """What shapes the pair, beside the conversation, the reference, the seed, the weights."""
        return self.model_dump(mode="json", include=SHAPING)

    @property
    def hides_tokens(self) -> bool:
        return self.corruption != "noise"

    @property
    def adds_noise(self) -> bool:
        return self.corruption != "attention"


class PairRequest(Prompted):
    """`POST /runs/{run}/pairs`: a pair that exists already, from a preference data set."""

    chosen: str
    """The better response y⁺."""
    rejected: str
    """The worse response y⁻."""
    pair_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._:-]{1,128}$")
    """The caller's name for it: the same id again, within a day, appends nothing. Drawn when left
    out."""

    @model_validator(mode="after")
    def _two_sides(self) -> Self:
        for side in ("chosen", "rejected"):
            if not getattr(self, side).strip():
                raise ValueError(f"`{side}` is empty")
        if self.chosen.strip() == self.rejected.strip():
            raise ValueError("`chosen` and `rejected` are the same text: there is no preference")
        return self

    @property
    def texts(self) -> list[str]:
        return [*super().texts, self.chosen, self.rejected]


SHAPING = set(BdhsRequest.model_fields) - {
    *("prompt", "messages", "images", "reference", "seed", "weight_version"),
    *("run", "priority", "deadline_s", "metadata", "trace"),
}
RANKING = set(SampleRequest.model_fields) - {
    *("prompt", "messages", "images", "seed", "weight_version"),
    *("run", "priority", "deadline_s", "metadata", "logprobs"),
}


# --- results ------------------------------------------------------------------------------------


class WeightSpan(Model):
    """Tokens `start` to `end` (exclusive) of a response were written by `version`."""

    start: int
    end: int
    version: int
    """0 is the model that the worker was started with."""


class TokenLogprob(Model):
    token_id: int
    token: str
    logprob: float


class Response(Model):
    """One sampled response."""

    text: str
    finish_reason: str
    """`stop` (end of sequence or a stop string) or `length`."""
    token_ids: list[int]
    logprobs: list[list[TokenLogprob]] | None = None
    """For each token: first the sampled one, then the asked alternatives, most likely first."""
    weight_versions: list[WeightSpan]

    @property
    def oldest_version(self) -> int:
        """Of the weights that wrote it; 0 if nothing was written."""
        return min((span.version for span in self.weight_versions), default=0)


class ImageView(Model):
    """A grid of image tokens that covers the whole picture, row by row.

    A family may look at the picture more than once (LLaVA-NeXT: the thumbnail, then the tiles).
    """

    start: int
    """Index of the grid's first image token."""
    rows: int
    columns: int
    newline: bool
    """Each row is followed by one image token that stands for no patch."""


class SentenceTrace(Model):
    prefix: str
    """What stood before the completion, of this sentence (after a swap)."""
    completion: str
    swapped: bool
    finish_reason: str
    """`sentence` (its end was seen), `stop` (end of sequence) or `length`."""
    seed: int
    """The sampler's."""
    thrown_away: int = 0
    """Tokens of look-ahead that showed the sentence to have ended, and are not in `completion`."""
    weight_versions: list[WeightSpan]
    prompt_token_ids: list[int] | None = None
    """As the engine saw them, the image placeholder once per kept token (`trace=full`)."""
    completion_token_ids: list[int] | None = None


class IterationTrace(Model):
    guided: bool
    kept: list[int]
    """Indices of the image tokens left visible, ascending; may be empty."""
    noise_steps: int = 0
    """0: no noise."""
    noise_seed: int | None = None
    sentences: list[SentenceTrace]
    text: str
    similarity: float


class BdhsTrace(Model):
    image_tokens: int
    """k, the number of vectors the image is encoded into."""
    image_views: list[ImageView]
    iterations: list[IterationTrace]


class Span(Model):
    """Characters `start` to `end` (exclusive) of the rejected text."""

    start: int
    end: int


class Pair(Model):
    """A preference pair: TRL's conversational vision row, then how it came about."""

    prompt: list[Message]
    images: list[str]
    """`sha256:<hex>` each; the bytes are at `GET /images/{sha256}`."""
    chosen: list[Message]
    rejected: list[Message]
    pair_id: str
    """The id of the job that made it; of an offline pair, what the caller named it."""
    run: RunName | None
    method: Literal["bdhs-attention", "bdhs-noise", "povid-token", "online", "offline"]
    chosen_version: int | None
    """Weight version that wrote the side (the oldest, if several); null: from a data set."""
    rejected_version: int | None
    rejected_spans: list[Span]
    """What the model wrote; the text outside is the reference's own."""
    similarity: float | None
    iterations: int | None
    seed: int | None
    settings: dict[str, JsonValue] = {}
    """The request's other settings that shaped it, by name. With the seed and the version of the
    weights, enough to make the same pair again (`prefstream replay`)."""
    created_at: datetime
    metadata: dict[str, JsonValue] = {}

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


class Judgement(Model):
    """What the annotator said of two responses."""

    first: int
    """Index of the response that it saw first."""
    second: int
    choice: Literal["first", "second", "tie", "unreadable"]
    text: str
    """Its words, as far as they are kept."""


class Annotation(Model):
    """How the responses were ranked, so that anyone can check it."""

    annotator: AnnotatorName
    judge: str
    """The model that judged, or the version of the policy."""
    judgements: list[Judgement]
    outcome: Literal["pair", "tie", "unreadable"]
    """tie: no response won a comparison. unreadable: nor were all verdicts readable."""
    chosen: int | None
    """Index of the better response of the pair; null: there is no pair."""
    rejected: int | None


class SampleResult(Model):
    kind: Literal["sample"] = "sample"
    responses: list[Response]
    seed: int
    annotation: Annotation | None = None
    """With an `annotator`."""
    pair: Pair | None = None
    """What the annotation came to."""


class BdhsResult(Model):
    kind: Literal["bdhs"] = "bdhs"
    pair: Pair
    trace: BdhsTrace | None


Result = Annotated[SampleResult | BdhsResult, Field(discriminator="kind")]


# --- jobs ---------------------------------------------------------------------------------------


class JobKind(StrEnum):
    sample = "sample"
    bdhs = "bdhs"


class JobStatus(StrEnum):
    queued = "queued"
    running = "running"
    retrying = "retrying"
    """Failed in a way that may pass; waits for its next attempt."""
    succeeded = "succeeded"
    failed = "failed"
    """Would fail again: see `error`."""
    dead = "dead"
    """Gave up after the last allowed attempt."""
    cancelled = "cancelled"

    @property
    def ended(self) -> bool:
        return self in ENDED


ENDED = frozenset({JobStatus.succeeded, JobStatus.failed, JobStatus.dead, JobStatus.cancelled})


class JobError(Model):
    code: str
    """Stable and machine-readable, such as `prompt_too_long`."""
    message: str
    details: dict[str, JsonValue] = {}


class Attempt(Model):
    """A start of a job that did not lead to success."""

    attempt: int
    worker: str
    """Empty: none had started it."""
    at: datetime
    """When it ended."""
    error: JobError


class Job(Model):
    id: str
    kind: JobKind
    status: JobStatus
    run: RunName | None
    priority: Priority
    attempt: int
    """How many times a worker has started it."""
    created_at: datetime
    started_at: datetime | None = None
    """Start of the latest attempt."""
    worker: str | None = None
    """Whose attempt that is, or was."""
    finished_at: datetime | None = None
    result: Result | None = None
    error: JobError | None = None
    """Why it failed, died, or was last retried."""
    history: list[Attempt] = []
    """All attempts without success, oldest first."""
    metadata: dict[str, JsonValue] = {}


JobsState = Literal["open", "ended", "dead"]
"""`dead`: the dead letters."""


class JobsPage(Model):
    jobs: list[Job]
    """Newest first, without their results."""
    before: str | None
    """Pass it as `before` to read on; null: there are no more."""


class Purged(Model):
    purged: int
    """Dead letters deleted."""


# --- runs ---------------------------------------------------------------------------------------


class RunSettings(Model):
    window: int = Field(default=256, ge=1, le=1_000_000)
    """Open jobs plus pairs not yet taken by the gating group, at most; beyond it: 429."""
    max_staleness: int | None = Field(default=None, ge=0)
    """Weight versions that a pair may lag behind; null: any."""
    stale: Literal["drop", "deliver"] = "drop"
    """What happens to pairs that lag further: set aside and counted, or delivered and marked."""
    keep: int = Field(default=10_000, ge=0)
    """Pairs that every group has acknowledged, kept for reading, at most."""
    retention: int | None = Field(default=None, ge=1)
    """Pairs kept at most, acknowledged or not; what a group misses by it is counted. null: what a
    group has not acknowledged is kept."""


class Group(Model):
    """A subscriber group of a run, in pairs."""

    name: GroupName
    waiting: int
    """Not yet taken."""
    leased: int
    """Taken by a subscriber that has not acknowledged them yet."""
    returned: int
    """Handed back, or their lease ran out; next to be delivered again."""
    acknowledged: int
    stale: int
    """Ever set aside, because they lagged more than `max_staleness` versions."""
    missed: int
    """Trimmed by `retention` before they were acknowledged."""
    redelivered: int
    """Ever handed back or expired."""


class Run(Model):
    name: RunName
    settings: RunSettings
    epoch: str
    """Random, new with every birth of the run's log; part of every cursor."""
    open_jobs: int
    running_jobs: int
    oldest_open_at: datetime | None
    """When the oldest open job was accepted."""
    dead_jobs: int
    """Ever ended in the dead letters."""
    pairs: int
    """Ever appended."""
    ties: int
    """Ranked jobs that made no pair, because the annotator preferred none."""
    unreadable: int
    """Ranked jobs that made no pair, because the annotator's verdicts were unreadable."""
    trimmed: int
    """Of those, no longer kept."""
    groups: list[Group]


class PairsPage(Model):
    pairs: list[Pair]
    cursor: str
    """Pass it as `after` to read on."""


class Appended(Model):
    """The answer to a `PairRequest`."""

    run: RunName
    pair_id: str
    repeated: bool
    """The run was given this pair before, and nothing was appended."""


# --- batches ------------------------------------------------------------------------------------


class LeaseRequest(Model):
    """`POST /runs/{run}/leases`."""

    group: GroupName = "trainer"
    """Groups see all pairs, each group independently; within one, each pair goes to one
    subscriber. The group `trainer` gates the run's window."""
    size: int = Field(default=8, ge=1, le=1024)
    """Pairs at most."""
    min_size: int | None = Field(default=None, ge=1, le=1024)
    """Pairs at least; by default `size`. Never more than the run's window is waited for."""
    wait_s: float = Field(default=0, ge=0)
    """How long to wait for them."""
    lease_s: float | None = Field(default=None, gt=0, le=24 * 3600)
    """Seconds without renewal after which the pairs are delivered again; by default the service's
    `batch_lease_s`."""

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        if self.min_size is not None and self.min_size > self.size:
            raise ValueError(f"`min_size` is {self.min_size}, above `size`, which is {self.size}")
        return self


class Delivery(Model):
    """How the pair of the same place in `pairs` is delivered."""

    cursor: str
    """Its place in the log: what `after` takes, to read on from here."""
    staleness: int | None
    """Newest version − the oldest that made it, at the time of the lease; null: not policy-made."""
    stale: bool
    """Lags more than `max_staleness` (of a run with `stale` = deliver)."""
    count: int
    """1: for the first time to this group."""


class Batch(Model):
    """Pairs under a lease: until `expires_at`, nobody else of the group gets them."""

    lease: str
    run: RunName
    group: GroupName
    expires_at: datetime
    pairs: list[Pair]
    deliveries: list[Delivery]


class LeaseState(Model):
    lease: str
    expires_at: datetime


class StoredImage(Model):
    image: str
    """`sha256:<hex>`, to be named in `images`."""
    format: Literal["png", "jpeg", "webp"]
    width: int
    height: int
    bytes: int


# --- weights ------------------------------------------------------------------------------------

WeightsKind = Literal["lora", "full"]
"""An adapter of the language model, or a whole checkpoint."""


class WeightFile(Model):
    bytes: int
    sha256: str


class WeightManifest(Model):
    """`manifest.json` in a version's folder of the weight store. It lists all other files."""

    version: int = Field(ge=1)
    """Grows with every publication; 0 is the model that the workers were started with."""
    kind: WeightsKind
    files: dict[str, WeightFile]
    """By name; a version's folder has no folders in it."""
    step: int | None = None
    """The trainer's optimizer steps so far."""
    run: RunName | None = None
    """The run whose pairs it was trained on."""
    created_at: datetime


class WeightVersion(Model):
    """A published version: the body of `POST /weights`."""

    version: int = Field(ge=1, le=2**53)
    kind: WeightsKind
    location: str = Field(max_length=2048)
    """Where its folder is: a path or an fsspec URL that every worker can read."""
    manifest_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the bytes of `manifest.json`."""


class Refusal(Model):
    """A worker's word that it will not serve a version."""

    worker_id: str
    version: int
    reason: str
    refused_at: datetime


class Weights(Model):
    """`GET /weights`."""

    newest: WeightVersion | None
    """The newest version announced; null: none yet."""
    workers: list["WorkerInfo"]
    """Each with the version it gives to new requests."""
    refused: list[Refusal]


# --- errors, health -----------------------------------------------------------------------------


class Problem(BaseModel):
    """RFC 9457 problem details, the body of every 4xx and 5xx."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    errors: list[dict[str, Any]] | None = None
    """For 422: each refused field with its place and the reason."""
    job_id: str | None = None
    """The job that the request waited for, and that did not succeed."""
    details: dict[str, JsonValue] | None = None
    """That job's `error.details`."""


class WorkerInfo(Model):
    """What a worker says of itself with every heartbeat."""

    id: str
    model: str
    weight_version: int
    slots: int
    """Jobs it works on at once, at most."""
    running: int
    engine_ready: bool
    heartbeat_at: datetime
    kinds: list[str] = []
    """The kinds of jobs it claims. Empty: its release does not say."""


class Health(Model):
    status: Literal["ok", "unavailable"]
    redis: bool
    workers: list[WorkerInfo] = []
