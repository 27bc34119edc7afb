"""Waiting for a condition, where nothing announces it."""

import asyncio
import time
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], Awaitable[object]], timeout_s: float = 30) -> None:
    end = time.monotonic() + timeout_s
    while True:
        if await condition():
            return
        if time.monotonic() > end:
            raise TimeoutError(f"not within {timeout_s} s")
        await asyncio.sleep(0.002)
