"""Annotators: who ranks the policy's responses into pairs. One file each.

`self` asks the policy, `openai` an endpoint, and every other name is an entry point of the group
`prefstream.annotators`.
"""

import asyncio
import importlib.metadata
import inspect
from collections.abc import Callable
from typing import Any, Protocol

from service.annotator import GROUP, CannotJudge, Case, Verdict
from worker.annotators import policy
from worker.annotators.openai import Endpoint
from worker.settings import WorkerSettings


class Annotator(Protocol):
    async def compare(self, case: Case) -> Verdict: ...


class Annotators:
    """A worker's annotators, by name."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._endpoint = Endpoint(settings)

    async def get(self, name: str, version: int) -> tuple[Annotator, str]:
        """The annotator, and what it judges with, for the record.

        Raises: CannotJudge (there is none of this name, or it is not set up), AnnotatorUnavailable.
        """
        if name == "self":
            return policy.Policy(), f"the policy, version {version}"
        if name == "openai":
            return self._endpoint, await self._endpoint.model()
        found = importlib.metadata.entry_points(group=GROUP, name=name)
        if not found:
            known = importlib.metadata.entry_points(group=GROUP).names
            raise CannotJudge(
                f"this worker has no annotator {name!r}. It has: "
                f"{', '.join(['self', 'openai', *sorted(known)])}. Others are entry points of the "
                f"group {GROUP}."
            )
        entry = next(iter(found))
        return Function(entry.load()), entry.value

    async def close(self) -> None:
        await self._endpoint.close()


class Function:
    """An annotator in Python."""

    def __init__(self, function: Callable[[Case], Any]) -> None:
        self._function = function

    async def compare(self, case: Case) -> Verdict:
        if inspect.iscoroutinefunction(self._function):
            return await self._function(case)
        return await asyncio.to_thread(self._function, case)
