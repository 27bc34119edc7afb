"""Every refusal and failure answered as problem details (RFC 9457)."""

import math
from collections.abc import Mapping
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from service.broker import UNAVAILABLE, BrokerError, QueueFull, ServerRefuses, WindowFull
from service.excerpts import excerpt
from service.problems import Refusal, broker_problem, problem
from service.schemas import Problem

log = structlog.get_logger()

RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Problem, "description": "Refused; `code` and `detail` say why."},
    "5XX": {"model": Problem, "description": "Not possible now; `detail` says why."},
}
"""For OpenAPI: what every route may answer."""

RETRY_AFTER_S = 1


MAX_ERRORS = 16
"""Of a request's faulty fields, those that an answer names."""

EXCERPT_PATH_CHARS = 200
EXCERPT_NAME_CHARS = 100


def refuse(path: str, problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """The answer to a request that is not done, which the log tells, too."""
    log.info(
        "refused",
        path=excerpt(path, EXCERPT_PATH_CHARS),
        status=problem.status,
        code=problem.code,
        reason=problem.detail,
    )
    return problem_response(problem, headers)


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        problem.model_dump_json(exclude_none=True),
        status_code=problem.status,
        media_type="application/problem+json",
        headers=dict(headers or {}),
    )


def add_handlers(app: FastAPI) -> None:
    app.add_exception_handler(Refusal, _refusal)
    app.add_exception_handler(BrokerError, _broker_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(Exception, _unexpected)
    for error in UNAVAILABLE:
        app.add_exception_handler(error, _unavailable)


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return refuse(request.url.path, error.problem, error.headers)


async def _broker_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, BrokerError)
    headers: dict[str, str] = {}
    if isinstance(error, QueueFull | WindowFull):
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    return refuse(request.url.path, broker_problem(error), headers)


async def _validation_error(request: Request, error: Exception) -> Response:
    """Names the first refused fields. Never repeats a value, which may be a whole image."""
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    errors: list[dict[str, Any]] = [
        {"loc": [_short(part) for part in e["loc"]], "msg": excerpt(e["msg"]), "type": e["type"]}
        for e in found[:MAX_ERRORS]
    ]
    said = [
        f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in errors
    ]
    if len(found) > MAX_ERRORS:
        said.append(f"and {len(found) - MAX_ERRORS} more faults")
    faults = problem(422, "invalid_request", "; ".join(said), errors=errors)
    return refuse(request.url.path, faults)


def _short(part: str | int) -> str | int:
    """Of a fault's place: an unknown field's name may be of any length."""
    return part if isinstance(part, int) else excerpt(part, EXCERPT_NAME_CHARS)


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = excerpt(request.url.path, EXCERPT_PATH_CHARS)
    code, detail = "http_error", excerpt(str(error.detail))
    if error.status_code == 404:
        code, detail = "not_found", f"There is nothing at {path}. See /docs."
    elif error.status_code == 405:
        code = "method_not_allowed"
        allowed = (error.headers or {}).get("Allow", "another method")
        detail = f"{path} takes {allowed}, not {request.method}."
    return refuse(request.url.path, problem(error.status_code, code, detail), error.headers)


async def _unavailable(request: Request, error: Exception) -> Response:
    log.warning("redis unavailable", path=request.url.path, reason=str(error))
    # Other errors may name the server's address, which is not the caller's to know.
    why = str(error) if isinstance(error, ServerRefuses) else type(error).__name__
    return problem_response(
        problem(
            503,
            "redis_unavailable",
            f"The service cannot use its Redis right now ({why}). Nothing was "
            "lost that was accepted; send this again.",
        ),
        {"Retry-After": str(RETRY_AFTER_S)},
    )


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("unexpected error", path=request.url.path, exc_info=error)
    return problem_response(
        problem(500, "internal_error", "The service failed unexpectedly; its log says how.")
    )
