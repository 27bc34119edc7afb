"""What may pass is tried again, as often as the service says, for as long as the caller says."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import pytest

from service.client import (
    Conflict,
    QueueFull,
    RunNotFound,
    ServiceUnreachable,
    TemporaryError,
    retry,
    retrying,
)
from service.client.retrying import parse_retry_after
from service.schemas import Problem

PROBLEM = Problem(title="", status=429, code="queue_full", detail="")


def failing(*errors: Exception):
    left = list(errors)

    async def call() -> int:
        if left:
            raise left.pop(0)
        return len(errors)

    return call


async def test_it_is_repeated_until_it_succeeds() -> None:
    errors = [QueueFull(PROBLEM, 0.001), ServiceUnreachable(PROBLEM, 0.001)]
    assert await retry(failing(*errors), for_s=30) == 2


async def test_what_will_not_pass_is_raised_at_once() -> None:
    with pytest.raises(Conflict):
        await retry(failing(Conflict(PROBLEM)), for_s=float("inf"))


async def test_who_has_no_time_gets_the_error() -> None:
    with pytest.raises(TemporaryError):
        await retry(failing(QueueFull(PROBLEM, 5)), for_s=1)


@pytest.mark.parametrize(
    ("value", "seconds"), [("3", 3.0), (" 0 ", 0.0), (None, None), ("soon", None), ("1.5e", None)]
)
def test_retry_after_in_seconds(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value) == seconds


def test_retry_after_as_a_date() -> None:
    later = datetime.now(UTC) + timedelta(seconds=100)
    assert 90 < (parse_retry_after(format_datetime(later, usegmt=True)) or 0) <= 100
    earlier = later - timedelta(days=1)
    assert parse_retry_after(format_datetime(earlier, usegmt=True)) == 0


def test_a_date_counts_by_the_clock_that_it_was_written_by() -> None:
    """The service's clock is an hour ahead of ours, or behind it."""
    for hours in (-1, 1):
        theirs = datetime.now(UTC) + timedelta(hours=hours)
        later = theirs + timedelta(seconds=20)
        dates = (format_datetime(later, usegmt=True), format_datetime(theirs, usegmt=True))
        assert parse_retry_after(*dates) == 20


async def test_patience_begins_with_the_first_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long poll may take longer than its caller's patience before it fails at all."""
    now = 0.0
    monkeypatch.setattr(retrying, "time", SimpleNamespace(monotonic=lambda: now))
    errors: list[Exception] = [ServiceUnreachable(PROBLEM, 0.001)]

    async def call() -> str:
        nonlocal now
        now += 100
        if errors:
            raise errors.pop()
        return "done"

    assert await retry(call, for_s=10) == "done"


async def test_what_was_done_before_its_answer_was_lost_is_done() -> None:
    lost = ServiceUnreachable(PROBLEM, 0.001)
    gone = RunNotFound(PROBLEM)
    assert await retry(failing(lost, gone), for_s=30, repeated=RunNotFound) is None
    for errors in ([gone], [QueueFull(PROBLEM, 0.001), gone], [lost, Conflict(PROBLEM)]):
        with pytest.raises((RunNotFound, Conflict)):
            await retry(failing(*errors), for_s=30, repeated=RunNotFound)
