"""The typed client of feeders and trainers.

`AsyncClient` is to be awaited, `Client` has the same calls for code that does not. Inside the
cluster, a `redis://` address in place of the HTTP one skips the HTTP face; calls and leases are the
same.
"""

from service.client.asynchronous import AsyncClient
from service.client.blocking import Client
from service.client.errors import (
    Conflict,
    Gone,
    ImageGone,
    InvalidRequest,
    JobFailed,
    JobGone,
    JobNotFound,
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
)
from service.client.image_data import image_data
from service.client.leases import AsyncLeasedBatch, LeasedBatch
from service.client.retrying import retry

__all__ = [
    "AsyncClient",
    "AsyncLeasedBatch",
    "Client",
    "Conflict",
    "Gone",
    "ImageGone",
    "InvalidRequest",
    "JobFailed",
    "JobGone",
    "JobNotFound",
    "LeaseLost",
    "LeasedBatch",
    "LogChanged",
    "LogTrimmed",
    "NotFound",
    "PrefstreamError",
    "QueueFull",
    "RunBusy",
    "RunNotFound",
    "ServerError",
    "ServiceUnavailable",
    "ServiceUnreachable",
    "TemporaryError",
    "TooManyRequests",
    "Unauthorized",
    "VersionNotFound",
    "WindowFull",
    "image_data",
    "retry",
]
