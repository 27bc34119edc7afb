"""Refusals as problem details (RFC 9457): the same over HTTP and for a client straight on Redis."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException

from service.broker import (
    BadCursor,
    BrokerError,
    IdempotencyConflict,
    ImageGone,
    JobGone,
    LeaseLost,
    LogChanged,
    LogTrimmed,
    NotDurable,
    PairConflict,
    QueueFull,
    RunBusy,
    UnknownScheme,
    UnusableServer,
    VersionNotNewer,
    VersionTooFar,
    VersionWithdrawn,
    WindowFull,
)
from service.excerpts import excerpt
from service.schemas import Job, JobStatus, Problem

STATUS: dict[type[BrokerError], int] = {
    QueueFull: 429,
    WindowFull: 429,
    IdempotencyConflict: 409,
    JobGone: 410,
    PairConflict: 409,
    ImageGone: 422,
    BadCursor: 422,
    LogChanged: 409,
    LogTrimmed: 410,
    NotDurable: 503,
    LeaseLost: 410,
    RunBusy: 409,
    UnknownScheme: 422,
    UnusableServer: 500,
    VersionNotNewer: 409,
    VersionTooFar: 422,
    VersionWithdrawn: 409,
}

MAX_DETAIL_CHARS = 2000
"""An answer does not grow with what was asked."""

TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}
"""RFC 9110's, where older Pythons have those of an older RFC."""


class Refusal(HTTPException):
    """A problem to answer with. An HTTPException, because FastAPI lets only those through while it
    reads a body."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        loc: tuple[str | int, ...] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        detail = excerpt(detail, MAX_DETAIL_CHARS)
        super().__init__(status, detail, headers)
        errors = None if loc is None else [{"loc": list(loc), "msg": detail, "type": code}]
        self.problem = problem(status, code, detail, errors=errors)


def problem(status: int, code: str, detail: str, **fields: Any) -> Problem:
    detail = excerpt(detail, MAX_DETAIL_CHARS)
    title = TITLES.get(status) or HTTPStatus(status).phrase
    return Problem(title=title, status=status, code=code, detail=detail, **fields)


def broker_problem(error: BrokerError) -> Problem:
    return problem(STATUS[type(error)], error.code, str(error))


def no_such_job(job_id: str) -> Refusal:
    return Refusal(
        404,
        "job_not_found",
        f"There is no job {job_id!r}. Ended jobs are kept for a limited time; their pairs stay in "
        "the log of their run.",
    )


def not_dead(job: Job) -> Refusal:
    detail = f"Job {job.id} is {job.status}. Only dead letters can be retried."
    return Refusal(409, "not_dead", detail)


def no_such_run(run: str) -> Refusal:
    return Refusal(
        404,
        "run_not_found",
        f"There is no run {run!r}. PUT /runs/{run} makes one, and so does a job that names it.",
    )


def no_such_group(run: str, group: str) -> Refusal:
    return Refusal(404, "group_not_found", f"Run {run!r} has no group {group!r}.")


def no_such_version(version: int) -> Refusal:
    return Refusal(
        404,
        "version_not_found",
        f"There is no version {version} of the weights, or it was announced long ago. "
        "GET /weights says which are known.",
    )


def job_problem(job: Job) -> Problem | None:
    """The problem that a caller gets who waited for this job; None if it succeeded or still runs.

    422: the model cannot do what was asked. 504: the deadline passed. 500: every attempt failed.
    """
    error = job.error
    match job.status:
        case JobStatus.cancelled:
            return problem(409, "cancelled", f"Job {job.id} was cancelled.", job_id=job.id)
        case JobStatus.failed | JobStatus.dead if error is not None:
            status = 500 if job.status == JobStatus.dead else 422
            if error.code == "deadline_exceeded":
                status = 504
            return problem(
                status, error.code, error.message, job_id=job.id, details=error.details or None
            )
        case _:
            return None
