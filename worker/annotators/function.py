"""An annotator in Python: an entry point of the group `prefstream.annotators`."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from service.annotator import Case, Verdict


class FunctionAnnotator:
    """A function of a `Case` that returns a `Verdict`, plain (run in a thread) or `async`."""

    def __init__(self, function: Callable[[Case], Any]) -> None:
        self._function = function

    async def compare(self, case: Case) -> Verdict:
        """Raises: what the function raises."""
        if inspect.iscoroutinefunction(self._function):
            return await self._function(case)
        return await asyncio.to_thread(self._function, case)
