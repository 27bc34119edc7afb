"""What a client raises: one hierarchy, over HTTP as well as straight on Redis.

Each error carries the service's own words, as a `Problem`.
"""

from service.schemas import Problem


class PrefstreamError(Exception):
    """A call did not succeed. `problem` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.status} {problem.code}: {problem.detail}")
        self.problem = problem


class TemporaryError(PrefstreamError):
    """The same call may succeed later. The client has repeated it for as long as it was told to."""

    def __init__(self, problem: Problem, retry_after_s: float = 1.0) -> None:
        super().__init__(problem)
        self.retry_after_s = retry_after_s
        """When to try again, as the service says."""


class TooManyRequests(TemporaryError):
    """429."""


class QueueFull(TooManyRequests):
    """The service has as many open jobs as it takes."""


class WindowFull(TooManyRequests):
    """The run has as many open jobs and untaken pairs as its window holds."""


class ServiceUnavailable(TemporaryError):
    """502, 503, 504: the service, or what it needs, is away."""


class ServiceUnreachable(ServiceUnavailable):
    """Nothing answered."""


class InvalidRequest(PrefstreamError):
    """400, 413, 422: what was sent is at fault, and would be again."""


class ImageGone(InvalidRequest):
    """The request names an image that is not stored (any more)."""


class Unauthorized(PrefstreamError):
    """401, 403: the API key is missing or wrong."""


class NotFound(PrefstreamError):
    """404."""


class JobNotFound(NotFound):
    """There is no such job (any more)."""


class RunNotFound(NotFound):
    """There is no such run."""


class VersionNotFound(NotFound):
    """There is no such version of the weights (any more)."""


class Conflict(PrefstreamError):
    """409: it does not go with what is there."""


class RunBusy(Conflict):
    """The run has open jobs or batches under lease."""


class LogChanged(Conflict):
    """The lease or cursor is of a log that is no more: the log was lost, or went back."""


class Gone(PrefstreamError):
    """410: it was there once."""


class LeaseLost(Gone):
    """The lease has ended; its pairs are delivered again."""


class JobGone(Gone):
    """The job of the idempotency key has ended, and is no longer kept."""


class LogTrimmed(Gone):
    """Pairs after the cursor are no longer kept."""


class ServerError(PrefstreamError):
    """Any other 5xx: a fault of the service; its log says more."""


class JobFailed(PrefstreamError):
    """The job that was waited for ended without success."""


BY_CODE: dict[str, type[PrefstreamError]] = {
    "queue_full": QueueFull,
    "window_full": WindowFull,
    "image_gone": ImageGone,
    "job_not_found": JobNotFound,
    "run_not_found": RunNotFound,
    "version_not_found": VersionNotFound,
    "run_busy": RunBusy,
    "log_changed": LogChanged,
    "lease_lost": LeaseLost,
    "log_trimmed": LogTrimmed,
    "job_gone": JobGone,
}

BY_STATUS: dict[int, type[PrefstreamError]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    409: Conflict,
    410: Gone,
    413: InvalidRequest,
    422: InvalidRequest,
    429: TooManyRequests,
    502: ServiceUnavailable,
    503: ServiceUnavailable,
    504: ServiceUnavailable,
}


def error_of(problem: Problem, retry_after_s: float | None = None) -> PrefstreamError:
    """The error that stands for a problem: by its code, else by its status. A job's end is one of
    its own, whatever its status: a deadline that passed is a 504, and repeating the call is no
    help."""
    if problem.job_id is not None:
        return JobFailed(problem)
    kind = BY_CODE.get(problem.code) or BY_STATUS.get(problem.status)
    if kind is None:
        kind = ServerError if problem.status >= 500 else PrefstreamError
    if issubclass(kind, TemporaryError) and retry_after_s is not None:
        return kind(problem, retry_after_s)
    return kind(problem)


def unreachable(where: str, error: Exception) -> ServiceUnreachable:
    """Of a connection that failed."""
    return ServiceUnreachable(
        Problem(
            title="Service Unavailable",
            status=503,
            code="unreachable",
            detail=f"Nothing answers at {where} ({type(error).__name__}: {error}).",
        )
    )
