"""Every model that crosses a border: requests, jobs, results, pairs, runs, problems.

Field names follow vLLM, TRL and the OpenAI API where those have one, and the paper's words
(arXiv 2407.02477) elsewhere.
"""

from service.schemas.base import (
    MAX_RANKED,
    MAX_SEED,
    TOLERANT,
    AnnotatorName,
    GroupName,
    Model,
    RunName,
)
from service.schemas.batches import Batch, Delivery, LeaseRenewal, LeaseRequest, LeaseState
from service.schemas.conversation import (
    ImagePart,
    Message,
    Part,
    TextPart,
    assistant_turn,
    user_turn,
)
from service.schemas.filters import Bounds, PairFilters
from service.schemas.health import Health, WorkerInfo
from service.schemas.images import StoredImage
from service.schemas.inputs import InputDigest
from service.schemas.jobs import (
    ENDED,
    Attempt,
    Job,
    JobError,
    JobKind,
    JobsPage,
    JobsState,
    JobStatus,
    Purged,
)
from service.schemas.outcomes import Outcome, outcome_of_texts, visible
from service.schemas.pairs import Appended, FilteredPage, FilteredPair, Pair, PairsPage, Span
from service.schemas.problems import Problem
from service.schemas.requests import (
    BDHS_SETTINGS,
    SAMPLE_SETTINGS,
    BdhsRequest,
    JobRequest,
    PairRequest,
    Priority,
    PromptRequest,
    SampleRequest,
)
from service.schemas.results import (
    Annotation,
    BdhsResult,
    Judgement,
    Response,
    Result,
    SampleResult,
    TokenLogprob,
    UnknownResult,
)
from service.schemas.runs import Bucket, Distribution, Group, Run, RunSettings
from service.schemas.traces import (
    BdhsTrace,
    CorruptionTrace,
    ImageTrace,
    ImageView,
    IterationTrace,
    SentenceTrace,
    WeightSpan,
)
from service.schemas.weights import (
    Refusal,
    WeightFile,
    WeightManifest,
    Weights,
    WeightsKind,
    WeightVersion,
)

__all__ = [
    "BDHS_SETTINGS",
    "ENDED",
    "MAX_RANKED",
    "MAX_SEED",
    "SAMPLE_SETTINGS",
    "TOLERANT",
    "Annotation",
    "AnnotatorName",
    "Appended",
    "Attempt",
    "Batch",
    "BdhsRequest",
    "BdhsResult",
    "BdhsTrace",
    "Bounds",
    "Bucket",
    "CorruptionTrace",
    "Delivery",
    "Distribution",
    "FilteredPage",
    "FilteredPair",
    "Group",
    "GroupName",
    "Health",
    "ImagePart",
    "ImageTrace",
    "ImageView",
    "InputDigest",
    "IterationTrace",
    "Job",
    "JobError",
    "JobKind",
    "JobRequest",
    "JobStatus",
    "JobsPage",
    "JobsState",
    "Judgement",
    "LeaseRenewal",
    "LeaseRequest",
    "LeaseState",
    "Message",
    "Model",
    "Outcome",
    "Pair",
    "PairFilters",
    "PairRequest",
    "PairsPage",
    "Part",
    "Priority",
    "Problem",
    "PromptRequest",
    "Purged",
    "Refusal",
    "Response",
    "Result",
    "Run",
    "RunName",
    "RunSettings",
    "SampleRequest",
    "SampleResult",
    "SentenceTrace",
    "Span",
    "StoredImage",
    "TextPart",
    "TokenLogprob",
    "UnknownResult",
    "WeightFile",
    "WeightManifest",
    "WeightSpan",
    "WeightVersion",
    "Weights",
    "WeightsKind",
    "WorkerInfo",
    "assistant_turn",
    "outcome_of_texts",
    "user_turn",
    "visible",
]
