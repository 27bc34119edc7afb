"""Which error stands for which problem, and what may pass."""

import pytest

from service.client import (
    Conflict,
    Gone,
    ImageGone,
    InvalidRequest,
    JobFailed,
    JobGone,
    LeaseLost,
    NotFound,
    PrefstreamError,
    RunNotFound,
    ServerError,
    ServiceUnavailable,
    TemporaryError,
    TooManyRequests,
    VersionNotFound,
    WindowFull,
)
from service.client.errors import error_of
from service.schemas import Problem


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (429, "window_full", WindowFull),
        (429, "of_a_proxy", TooManyRequests),
        (404, "run_not_found", RunNotFound),
        (404, "version_not_found", VersionNotFound),
        (404, "http_error", NotFound),
        (410, "lease_lost", LeaseLost),
        (410, "job_gone", JobGone),
        (410, "of_tomorrow", Gone),
        (409, "not_dead", Conflict),
        (422, "image_gone", ImageGone),
        (413, "body_too_large", InvalidRequest),
        (502, "http_error", ServiceUnavailable),
        (500, "internal_error", ServerError),
        (405, "method_not_allowed", PrefstreamError),
        (418, "of_tomorrow", PrefstreamError),
    ],
)
def test_the_code_names_it_else_the_status(
    status: int, code: str, kind: type[PrefstreamError]
) -> None:
    error = error_of(Problem(title="", status=status, code=code, detail="so"))
    assert type(error) is kind
    assert str(error) == f"{status} {code}: so"
    assert isinstance(error, TemporaryError) == (status in (429, 502, 503, 504))


def test_a_job_that_failed_is_not_to_be_repeated() -> None:
    problem = Problem(title="", status=504, code="deadline_exceeded", detail="", job_id="1")
    assert type(error_of(problem, 3)) is JobFailed


def test_the_service_says_when_to_come_again() -> None:
    problem = Problem(title="", status=503, code="redis_unavailable", detail="")
    error = error_of(problem, 7)
    assert isinstance(error, TemporaryError)
    assert error.retry_after_s == 7
