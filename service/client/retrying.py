"""What may pass, and how long to wait before the next try: said once, for clients, feeders and
trainers."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from service.client.errors import TemporaryError

T = TypeVar("T")

log = logging.getLogger(__name__)


async def retry(call: Callable[[], Awaitable[T]], *, for_s: float) -> T:
    """The call's answer. While it raises `TemporaryError`, it is repeated as often as the error
    says, for `for_s` seconds at most."""
    end = time.monotonic() + for_s
    while True:
        try:
            return await call()
        except TemporaryError as error:
            if time.monotonic() + error.retry_after_s > end:
                raise
            log.info("again in %g s: %s", error.retry_after_s, error)
            await asyncio.sleep(error.retry_after_s)


def parse_retry_after(value: str | None) -> float | None:
    """Seconds of a `Retry-After` header, which holds those or a date (RFC 9110); None: it says
    nothing that one could go by."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
