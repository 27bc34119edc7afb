"""Redis, however long it is away."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from service.broker import UNAVAILABLE

log = structlog.get_logger()

T = TypeVar("T")

RETRY_S = 1.0
"""Seconds between attempts to reach a Redis that is away."""


async def reach(call: Callable[[], Awaitable[T]]) -> T:
    """The call's answer, however long Redis is away."""
    while True:
        try:
            return await call()
        except UNAVAILABLE as error:
            log.warning("redis is away; trying again", reason=str(error))
            await asyncio.sleep(RETRY_S)
