"""What may pass, and how long to wait before the next try: said once, for clients, feeders and
trainers."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar, cast

from service.client.errors import ServiceUnavailable, TemporaryError

T = TypeVar("T")

log = logging.getLogger(__name__)


async def retry(
    call: Callable[[], Awaitable[T]], *, for_s: float, repeated: type[Exception] | None = None
) -> T:
    """The call's answer. While it raises `TemporaryError`, it is repeated as often as the error
    says, for `for_s` seconds after the first failure at most.

    `repeated`: what a call raises that was done before, when its answer was lost; at a repetition
    this counts as done, and None is returned.
    """
    end, unanswered = float("inf"), False
    while True:
        try:
            return await call()
        except TemporaryError as error:
            end = min(end, time.monotonic() + for_s)
            unanswered = unanswered or isinstance(error, ServiceUnavailable)
            if time.monotonic() + error.retry_after_s > end:
                raise
            await asyncio.sleep(error.retry_after_s)
        except Exception as error:
            if repeated is None or not (unanswered and isinstance(error, repeated)):
                raise
            return cast(T, None)


def parse_retry_after(value: str | None, date: str | None = None) -> float | None:
    """Seconds of a `Retry-After` header, which holds those or a time (RFC 9110); None: it says
    nothing that one could go by. `date`: the answer's `Date`, by the same clock as that time;
    without one, this machine's."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    then, now = _time_of(value), _time_of(date or "") or datetime.now(UTC)
    return None if then is None else max(0.0, (then - now).total_seconds())


def _time_of(value: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(value)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
