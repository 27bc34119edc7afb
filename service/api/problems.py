"""Every refusal and failure as problem details (RFC 9457)."""

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from service.broker import (
    UNAVAILABLE,
    BadCursor,
    BrokerError,
    IdempotencyConflict,
    ImageGone,
    LeaseLost,
    LogChanged,
    LogTrimmed,
    NotDurable,
    PairConflict,
    QueueFull,
    RunBusy,
    VersionNotNewer,
    WindowFull,
)
from service.schemas import Job, JobStatus, Problem

log = structlog.get_logger()

STATUS: dict[type[BrokerError], int] = {
    QueueFull: 429,
    WindowFull: 429,
    IdempotencyConflict: 409,
    PairConflict: 409,
    ImageGone: 422,
    BadCursor: 422,
    LogChanged: 409,
    LogTrimmed: 410,
    NotDurable: 503,
    LeaseLost: 410,
    RunBusy: 409,
    VersionNotNewer: 409,
}

RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Problem, "description": "Refused; `code` and `detail` say why."},
    "5XX": {"model": Problem, "description": "Not possible now; `detail` says why."},
}
"""For OpenAPI: what every route may answer."""

RETRY_AFTER_S = 1


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
        super().__init__(status, detail, headers)
        errors = None if loc is None else [{"loc": list(loc), "msg": detail, "type": code}]
        self.problem = problem(status, code, detail, errors=errors)


def problem(status: int, code: str, detail: str, **fields: Any) -> Problem:
    return Problem(
        title=HTTPStatus(status).phrase, status=status, code=code, detail=detail, **fields
    )


def answer(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        problem.model_dump_json(exclude_none=True),
        status_code=problem.status,
        media_type="application/problem+json",
        headers=dict(headers or {}),
    )


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


def unsuccessful(job: Job) -> Problem | None:
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


def install(app: FastAPI) -> None:
    app.add_exception_handler(Refusal, _refusal)
    app.add_exception_handler(BrokerError, _broker_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(Exception, _unexpected)
    for error in UNAVAILABLE:
        app.add_exception_handler(error, _unavailable)


async def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return answer(error.problem, error.headers)


def broker_problem(error: BrokerError) -> Problem:
    return problem(STATUS[type(error)], error.code, str(error))


async def _broker_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, BrokerError)
    headers: dict[str, str] = {}
    if isinstance(error, QueueFull | WindowFull):
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    return answer(broker_problem(error), headers)


async def _validation_error(_: Request, error: Exception) -> Response:
    """Names each refused field. Never repeats its value, which may be a whole image."""
    assert isinstance(error, RequestValidationError)
    errors = [{"loc": list(e["loc"]), "msg": e["msg"], "type": e["type"]} for e in error.errors()]
    detail = "; ".join(
        f"{'.'.join(map(str, e['loc']))}: {str(e['msg']).removeprefix('Value error, ')}"
        for e in errors
    )
    return answer(problem(422, "invalid_request", detail, errors=errors))


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, detail = "http_error", str(error.detail)
    if error.status_code == 404:
        code, detail = "not_found", f"There is nothing at {request.url.path}. See /docs."
    elif error.status_code == 405:
        code = "method_not_allowed"
        allowed = (error.headers or {}).get("Allow", "another method")
        detail = f"{request.url.path} takes {allowed}, not {request.method}."
    return answer(problem(error.status_code, code, detail), error.headers)


async def _unavailable(request: Request, error: Exception) -> Response:
    log.warning("redis unavailable", path=request.url.path, error=repr(error))
    return answer(
        problem(
            503,
            "redis_unavailable",
            f"The service cannot use its Redis right now ({type(error).__name__}). Nothing was "
            "lost that was accepted; send this again.",
        ),
        {"Retry-After": str(RETRY_AFTER_S)},
    )


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("unexpected error", path=request.url.path, exc_info=error)
    return answer(
        problem(500, "internal_error", "The service failed unexpectedly; its log says how.")
    )
