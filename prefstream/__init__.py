"""prefstream: fresh preference pairs for multimodal alignment, made by the policy while it trains.

What users import, and nothing heavy: the clients, requests and what they come to, errors. Every
name is documented where it is defined.

    from prefstream import BdhsRequest, Client, image_data

    with Client("http://127.0.0.1:8000") as client:
        request = BdhsRequest(prompt=…, images=[image_data(path)], reference=…)
        job = client.bdhs(request, wait_s=60)
"""

from typing import TYPE_CHECKING, Any

from service.annotator import AnnotatorUnavailable, CannotJudge, Case, Verdict
from service.client import (
    AsyncClient,
    AsyncLeasedBatch,
    Client,
    Conflict,
    Gone,
    ImageGone,
    InvalidRequest,
    JobFailed,
    JobGone,
    JobNotFound,
    LeasedBatch,
    LeaseLost,
    LogChanged,
    LogTrimmed,
    NotFound,
    PrefstreamError,
    QueueFull,
    RunBusy,
    RunNotFound,
    ServerError,
    ServiceUnavailable,
    ServiceUnreachable,
    TemporaryError,
    TooManyRequests,
    Unauthorized,
    VersionNotFound,
    WindowFull,
    image_data,
)
from service.schemas import (
    Batch,
    BdhsRequest,
    BdhsResult,
    Bounds,
    Delivery,
    FilteredPair,
    Health,
    ImagePart,
    Job,
    JobKind,
    JobStatus,
    LogprobsRequest,
    LogprobsResult,
    Message,
    NamespaceSettings,
    Outcome,
    Pair,
    PairFilters,
    PairRequest,
    Priority,
    Problem,
    Response,
    Run,
    RunSettings,
    SampleRequest,
    SampleResult,
    Span,
    TextPart,
    UnknownResult,
    View,
    Weights,
    WeightVersion,
)
from trainer.data import Example, InvalidDataset, InvalidRow
from trainer.data import read as read_dataset
from trainer.export import ExportError, export

__all__ = [
    "AnnotatorUnavailable",
    "AsyncClient",
    "AsyncLeasedBatch",
    "Batch",
    "BdhsRequest",
    "BdhsResult",
    "Bounds",
    "CannotJudge",
    "Case",
    "Client",
    "Conflict",
    "Delivery",
    "Example",
    "ExportError",
    "FilteredPair",
    "Gone",
    "Health",
    "ImageGone",
    "ImagePart",
    "InvalidDataset",
    "InvalidRequest",
    "InvalidRow",
    "Job",
    "JobFailed",
    "JobGone",
    "JobKind",
    "JobNotFound",
    "JobStatus",
    "LeaseLost",
    "LeasedBatch",
    "LogChanged",
    "LogTrimmed",
    "LogprobsRequest",
    "LogprobsResult",
    "Message",
    "NamespaceSettings",
    "NotFound",
    "Outcome",
    "Pair",
    "PairFilters",
    "PairRequest",
    "PrefstreamError",
    "Priority",
    "Problem",
    "QueueFull",
    "Response",
    "Run",
    "RunBusy",
    "RunNotFound",
    "RunSettings",
    "SampleRequest",
    "SampleResult",
    "ServerError",
    "ServiceUnavailable",
    "ServiceUnreachable",
    "Span",
    "TemporaryError",
    "TextPart",
    "TooManyRequests",
    "Unauthorized",
    "UnknownResult",
    "Verdict",
    "VersionNotFound",
    "View",
    "WeightVersion",
    "Weights",
    "WindowFull",
    "export",
    "image_data",
    "read_dataset",
    "torch_dataset",
]

if TYPE_CHECKING:
    from trainer.stream.run_dataset import RunDataset as torch_dataset  # noqa: N813


def __getattr__(name: str) -> Any:
    """`torch_dataset`, which is a class of PyTorch's: imported by those who use it."""
    if name == "torch_dataset":
        from trainer.stream.run_dataset import RunDataset

        return RunDataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
