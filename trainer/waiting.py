"""What a trainer waits out: too few pairs, and a service that is away. It gives up on neither."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from service.client import TemporaryError

log = structlog.get_logger()

T = TypeVar("T")

PAUSE_S = 1.0
"""Between two attempts."""

TELL_AFTER_S = 5.0
TELL_EVERY_S = 30.0
"""A wait is told of when it has lasted `TELL_AFTER_S`, and then as often as this."""

AWAY = "the service is away; trying again"


class Stopped(Exception):
    """The trainer was asked to stop."""


class Waiter:
    """One thread's waits: each ends when the trainer is asked to stop, and long ones are told."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._why: str | None = None
        self._since = self._tell_at = 0.0

    def raise_if_stopped(self) -> None:
        """Raises: Stopped."""
        if self._stop.is_set():
            raise Stopped

    def pause(
        self, why: str, seconds: float, figures: Callable[[], dict[str, object]] = dict
    ) -> None:
        """One pause of a wait that lasts until `done`. `figures` is asked when it is told of.

        Raises: Stopped.
        """
        now = time.monotonic()
        if why != self._why:
            self._why, self._since, self._tell_at = why, now, now + TELL_AFTER_S
        if now >= self._tell_at:
            self._tell_at = now + TELL_EVERY_S
            log.info(why, seconds=round(now - self._since), **figures())
        if self._stop.wait(seconds):
            raise Stopped

    def done(self) -> None:
        """What was waited for has come."""
        self._why = None

    def retry(self, call: Callable[[], T]) -> T:
        """The call's answer, however long the service is away. Raises: Stopped, and the rest."""
        while True:
            try:
                answer = call()
            except TemporaryError as error:
                self.pause(AWAY, error.retry_after_s, lambda e=error: {"reason": str(e)})
            else:
                if self._why == AWAY:
                    self.done()
                return answer
