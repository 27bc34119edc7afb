"""Work in the background: no error ends it, and it is said which of it fails."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

import structlog

from service.broker.errors import UNAVAILABLE

log = structlog.get_logger()


class Background:
    """The tasks of one process that serve no single caller. Each recovers by itself, and notes here
    whether it works."""

    def __init__(self) -> None:
        self.failing: dict[str, str] = {}
        """Why a task failed the last time that it tried, by its name."""

    def failed(self, task: str, error: Exception) -> None:
        why = f"{type(error).__name__}: {error}"
        if self.failing.get(task) != why:  # once, though it is tried again and again
            known = isinstance(error, UNAVAILABLE)
            log.error(
                "background task failed; it is tried again",
                task=task,
                reason=why,
                exc_info=None if known else error,
            )
        self.failing[task] = why

    def worked(self, task: str) -> None:
        if self.failing.pop(task, None) is not None:
            log.info("background task works again", task=task)

    async def repeat(
        self, task: str, work: Callable[[], Awaitable[object]], pause_s: float
    ) -> NoReturn:
        """Does the work again and again, `pause_s` apart, until it is cancelled."""
        while True:
            try:
                await work()
            except Exception as error:
                self.failed(task, error)
            else:
                self.worked(task)
            await asyncio.sleep(pause_s)
