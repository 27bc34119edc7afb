"""What is asked for: responses, a rejected response, log-probabilities, a pair of a data set."""

from enum import StrEnum
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, JsonValue, model_validator

from service.schemas.base import (
    MAX_RANKED,
    MAX_SEED,
    MAX_VERSION,
    AnnotatorName,
    Model,
    RunName,
)
from service.schemas.conversation import Message
from service.schemas.outcomes import Outcome, outcome_of_texts, visible
from service.schemas.prompts import PromptRequest, Text


class JobKind(StrEnum):
    """What a job is asked to do: `POST /sample`, `POST /bdhs` or `POST /logprobs`."""

    sample = "sample"
    bdhs = "bdhs"
    logprobs = "logprobs"


class Priority(StrEnum):
    """How urgent a job is."""

    high = "high"
    normal = "normal"
    low = "low"


TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=32768, fail_fast=True)]


class JobRequest(PromptRequest):
    """What all kinds of job have in common."""

    kind: ClassVar[JobKind]
    """Which kind it is."""
    run: RunName | None = None
    """The run to whose log the pair goes."""
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    """Drawn, and stated in the result, when left out."""
    weight_version: int | None = Field(default=None, ge=0, le=MAX_VERSION)
    """Run on this version of the weights, to make a response again; 0 is the model that the worker
    was started with. null: on the newest."""
    priority: Priority = Priority.normal
    """Of the jobs that wait, those of a higher one are started first."""
    deadline_s: float | None = Field(default=None, gt=0, le=7 * 24 * 3600)
    """Seconds from acceptance after which the job is not worth running."""

    def stored_json(self) -> str:
        """As it is stored for workers, without what has its default. A worker reads requests
        strictly, so one of an earlier release can do what it would understand, and gives back what
        asks for something that it does not know."""
        fields = type(self).model_fields
        said = {n for n in self.model_fields_set if getattr(self, n) != fields[n].default}
        return self.model_dump_json(include=said)


class SamplingRequest(JobRequest):
    """What has the policy write something, and may make a pair of it."""

    temperature: float = Field(default=1.0, ge=0.0, le=2.0)
    """Of the sampler; 0: the most likely token always. 1 (the default) is the policy itself. vLLM
    takes none above 2, and 0.01 for what lies between that and 0."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Sample from the likeliest tokens that make up this share; 1 (as vLLM's default): all."""
    top_k: int = Field(default=0, ge=0, lt=2**31)
    """Sample from this many of the likeliest tokens; 0 (as vLLM's default): all."""
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    """Leave out tokens less likely than this share of the likeliest one; 0 (as vLLM's default):
    none."""
    max_tokens: int = Field(default=512, ge=1, le=32768)
    """New tokens at most; for BDHS, for each sentence."""
    logps: bool = False
    """The pair says how likely the policy finds both sides, with the images and without."""
    ref_logps: bool = False
    """The pair says how likely version 0 of the weights finds both sides."""


class SampleRequest(SamplingRequest):
    """`POST /sample`: n responses of the policy to a prompt, with or without images."""

    kind = JobKind.sample
    n: int = Field(default=1, ge=1, le=64)
    """How many responses."""
    stop: list[Annotated[str, Field(min_length=1)]] = Field(default=[], max_length=16)
    """Strings that end a response; they are not part of it."""
    continue_final_message: bool = False
    """`messages` ends with an assistant's turn, and the responses go on from where it stops (vLLM's
    name). They do not repeat it; white space at its end is theirs to write."""
    stop_at: Literal["sentence"] | None = None
    """`sentence`: a response ends where its first sentence does, with finish reason `sentence`."""
    logprobs: int | None = Field(default=None, ge=0, le=20)
    """Log-probabilities of each response token and of this many alternatives."""
    annotator: AnnotatorName | None = None
    """Who ranks the responses into a pair: `self` (the policy), `openai` (an endpoint that the
    workers are set up with), or the name of an annotator in Python that the workers have."""
    orders: Literal["both", "random"] = "both"
    """The annotator sees every two responses in both orders, and must decide alike; or once, in an
    order drawn from the seed."""

    @property
    def _last_role(self) -> str:
        return "assistant" if self.continue_final_message else "user"

    @model_validator(mode="after")
    def _greedy(self) -> Self:
        if self.temperature == 0 and self.n > 1:
            raise ValueError(
                "with `temperature` 0 all responses are the same: ask for 1, or raise it; "
                f"`n` is {self.n}"
            )
        return self

    @model_validator(mode="after")
    def _continuation(self) -> Self:
        if self.continue_final_message:
            if self.messages is None:
                raise ValueError("`continue_final_message` needs `messages`, not `prompt`")
            if self.annotator is not None:
                raise ValueError(
                    "`annotator` ranks whole answers, and with `continue_final_message` the "
                    "responses are parts of one"
                )
        return self

    @model_validator(mode="after")
    def _ranking(self) -> Self:
        if self.annotator is None:
            for name in ("orders", "logps", "ref_logps"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"`{name}` has no effect without an `annotator`")
        elif not 2 <= self.n <= MAX_RANKED:
            raise ValueError(f"an annotator ranks 2 to {MAX_RANKED} responses, and `n` is {self.n}")
        return self

    @property
    def turns(self) -> list[Message]:
        """The conversation up to the answer."""
        return self.conversation[:-1] if self.continue_final_message else self.conversation

    @property
    def answer_start(self) -> str:
        """What the responses go on from; empty: they are whole answers."""
        return self.conversation[-1].text if self.continue_final_message else ""

    @property
    def texts(self) -> list[str]:
        return [*super().texts, *self.stop]

    @property
    def settings(self) -> dict[str, JsonValue]:
        """What shapes the pair, beside the conversation, the seed, the weights."""
        return self.model_dump(mode="json", include=SAMPLE_SETTINGS)


class BdhsRequest(SamplingRequest):
    """`POST /bdhs`: a rejected response made from a trusted one (the paper's section on BDHS)."""

    kind = JobKind.bdhs
    reference: Text
    """The trusted answer y⁺, which becomes the chosen side."""
    corruption: Literal["attention", "noise", "attention+noise"] = "attention"
    """How the view of the image is spoilt: hide image tokens from attention, add diffusion noise to
    the pixels, or both."""
    guidance: Literal["sentence", "answer", "none", "token"] = "sentence"
    """`sentence`: complete each sentence of the reference; `answer`: go on after the start of the
    reference (`start_ratio`; without the picture, InternVL's Dropout-NTP); `none`: generate freely;
    `token`: predict every token after the reference's true ones (POVID's distortion; noise
    only)."""
    start_ratio: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Share of the reference's tokens that `guidance` = answer gives: the cut falls at the nearest
    end of a word."""
    corrupt_images: list[int] | None = Field(default=None, min_length=1, max_length=64)
    """Indices of those images of the prompt that are spoilt, each by its own draw; null: all of
    them (the paper has one)."""
    rho: float = Field(default=0.99, ge=0.0, le=1.0)
    """ρ_th: an image token stays visible where U(0,1) ≥ ρ_th. 0 hides nothing, 1 everything (paper:
    0.99)."""
    noise_steps: int = Field(default=500, ge=1, le=1000)
    """N of the diffusion schedule, for `noise` (paper: 100 to 500), in steps of 1000."""
    max_iterations: int = Field(default=5, ge=1, le=20)
    """N_BDHS (paper: 5). When above 1, the last iteration of `sentence` guidance is unguided, and
    taken as it is."""
    similarity_threshold: float = Field(default=0.97, ge=-1.0, le=1.0)
    """ε_s: cosine similarity to the reference at or above which everything is drawn again (paper:
    0.97)."""
    swap_yes_no: bool = True
    """Swap a leading yes or no for its counterpart with probability 1/2, before the cut."""
    trace: Literal["none", "summary", "full"] = "summary"
    """How much of what was drawn the result carries; `full` adds token ids."""

    @model_validator(mode="after")
    def _images_to_corrupt(self) -> Self:
        if not self.images:
            raise ValueError("BDHS needs an image to spoil, and `images` is empty")
        named = self.corrupt_images or []
        if len(set(named)) < len(named):
            raise ValueError(f"`corrupt_images` names an image twice: {named}")
        if beyond := [index for index in named if not 0 <= index < len(self.images)]:
            raise ValueError(
                f"`corrupt_images` names {beyond[0]}, and the {len(self.images)} images are "
                f"numbered from 0 to {len(self.images) - 1}"
            )
        if not visible(self.reference):
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
        if self.start_ratio != fields["start_ratio"].default and self.guidance != "answer":
            raise ValueError(f"`start_ratio` has no effect with `guidance` = {self.guidance}")
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
        return self.model_dump(mode="json", include=BDHS_SETTINGS)

    @property
    def hides_tokens(self) -> bool:
        return self.corruption != "noise"

    @property
    def adds_noise(self) -> bool:
        return self.corruption != "attention"


class View(Model):
    """How a prompt's images are shown: by default whole."""

    rho: float = Field(default=0.0, ge=0.0, le=1.0)
    """ρ_th: an image token is visible where U(0,1) ≥ ρ_th. 0 hides nothing, 1 everything: no
    picture."""
    noise_steps: int = Field(default=0, ge=0, le=1000)
    """N of the diffusion schedule, in steps of 1000; 0: no noise."""

    @property
    def whole(self) -> bool:
        """Nothing is hidden, and there is no noise."""
        return self.rho == 0 and self.noise_steps == 0


class LogprobsRequest(JobRequest):
    """`POST /logprobs`: how likely the policy finds given responses to a prompt (teacher-forced),
    with the images as they are or under views that BDHS has."""

    kind = JobKind.logprobs
    responses: list[Text | TokenIds] = Field(min_length=1, max_length=64)
    """Each a text, or the ids of tokens as they were sampled."""
    ended: bool = True
    """Of texts: the token that ends the turn counts, as it does in training. Ids say so
    themselves."""
    views: list[View] = Field(default=[View()], min_length=1, max_length=16)
    """How the images are shown; each response is scored under each."""
    tokens: bool = False
    """The result has each token's log-probability, too."""

    @model_validator(mode="after")
    def _something_to_score(self) -> Self:
        if self.run is not None:
            raise ValueError("`run` has no effect: no pair comes of it")
        if not self.ended and "" in self.responses:
            raise ValueError("a response is empty, and without its end there is nothing to score")
        if not self.images and any(not view.whole for view in self.views):
            raise ValueError("`views` has no effect without an image, and `images` is empty")
        return self

    @property
    def texts(self) -> list[str]:
        return [*super().texts, *(text for text in self.responses if isinstance(text, str))]

    @property
    def length(self) -> int:
        ids = (response for response in self.responses if not isinstance(response, str))
        return super().length + sum(map(len, ids))


class PairRequest(PromptRequest):
    """`POST /runs/{run}/pairs`: a pair that exists already, from a preference data set."""

    chosen: Text
    """The better response y⁺."""
    rejected: Text
    """The worse response y⁻."""
    pair_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._:-]{1,128}$")
    """The caller's name for it: the same id again, within a day, appends nothing. Drawn when left
    out."""

    @model_validator(mode="after")
    def _two_sides(self) -> Self:
        match outcome_of_texts(self.chosen, self.rejected):
            case Outcome.empty:
                side = "rejected" if visible(self.chosen) else "chosen"
                raise ValueError(f"`{side}` is empty")
            case Outcome.same:
                raise ValueError(
                    "`chosen` and `rejected` are the same text, white space aside: there is no "
                    "preference"
                )
            case _:
                return self

    @property
    def texts(self) -> list[str]:
        return [*super().texts, self.chosen, self.rejected]


BDHS_SETTINGS = set(BdhsRequest.model_fields) - {
    *("prompt", "messages", "images", "reference", "seed", "weight_version"),
    *("run", "priority", "deadline_s", "metadata", "trace", "logps", "ref_logps"),
}
SAMPLE_SETTINGS = set(SampleRequest.model_fields) - {
    *("prompt", "messages", "images", "seed", "weight_version"),
    *("run", "priority", "deadline_s", "metadata", "logprobs", "logps", "ref_logps"),
    "continue_final_message",
}
