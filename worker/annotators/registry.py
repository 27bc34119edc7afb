"""A worker's annotators, by name.

`self` asks the policy, `openai` an endpoint, and every other name is an entry point of the group
`prefstream.annotators`.
"""

import importlib.metadata

from service.annotator import GROUP, CannotJudge
from worker.annotators.annotator import Annotator
from worker.annotators.function import FunctionAnnotator
from worker.annotators.openai import OpenAIAnnotator
from worker.annotators.self_annotator import SelfAnnotator
from worker.settings import WorkerSettings


class AnnotatorRegistry:
    """Finds an annotator; keeps the connections of the one that has some."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._openai = OpenAIAnnotator(settings)

    async def get(self, name: str, version: int) -> tuple[Annotator, str]:
        """The annotator, and what it judges with, for the record.

        Raises: CannotJudge (there is none of this name, or it is not set up), AnnotatorUnavailable.
        """
        if name == "self":
            return SelfAnnotator(), f"the policy, version {version}"
        if name == "openai":
            return self._openai, await self._openai.model()
        found = importlib.metadata.entry_points(group=GROUP, name=name)
        if not found:
            known = importlib.metadata.entry_points(group=GROUP).names
            raise CannotJudge(
                f"this worker has no annotator {name!r}. It has: "
                f"{', '.join(['self', 'openai', *sorted(known)])}. Others are entry points of the "
                f"group {GROUP}."
            )
        entry = next(iter(found))
        return FunctionAnnotator(entry.load()), entry.value

    async def close(self) -> None:
        await self._openai.close()
