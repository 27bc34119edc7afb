"""What may pass is tried again, as often as the service says, for as long as the caller says."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from service.client import Conflict, QueueFull, ServiceUnreachable, TemporaryError, retry
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
