"""What every annotator does."""

from typing import Protocol

from service.annotator import Case, Verdict


class Annotator(Protocol):
    """Compares two responses to one question."""

    async def compare(self, case: Case) -> Verdict: ...
