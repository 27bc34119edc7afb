"""Jobs: their states, attempts, and what became of them."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from service.schemas.base import Model, RunName
from service.schemas.requests import JobKind, Priority
from service.schemas.results import Result


class JobStatus(StrEnum):
    """Where a job stands."""

    queued = "queued"
    running = "running"
    retrying = "retrying"
    """Failed in a way that may pass; waits for its next attempt."""
    succeeded = "succeeded"
    failed = "failed"
    """Would fail again: see `error`."""
    dead = "dead"
    """Gave up after the last allowed attempt."""
    cancelled = "cancelled"


ENDED = frozenset({JobStatus.succeeded, JobStatus.failed, JobStatus.dead, JobStatus.cancelled})


class JobError(Model):
    """Why an attempt or a job failed."""

    code: str
    """Stable and machine-readable, such as `prompt_too_long`."""
    message: str
    """What was wrong, where, and what to do: for people."""
    details: dict[str, JsonValue] = {}
    """Figures that belong to the code, by name."""


class Attempt(Model):
    """A start of a job that did not lead to success."""

    attempt: int
    """Which one: 1 is the first."""
    worker: str
    """Who had started it; empty: nobody."""
    at: datetime
    """When it ended."""
    error: JobError
    """Why it failed."""


class Job(Model):
    """A job: its state, and what it came to."""

    id: str
    """32 hexadecimal digits; ids sort by age."""
    kind: Annotated[JobKind | str, Field(union_mode="left_to_right")]
    """`sample`, `bdhs` or `logprobs`."""
    status: Annotated[JobStatus | str, Field(union_mode="left_to_right")]
    """`queued`; `running`; `retrying` (failed in a way that may pass, and waits for its next
    attempt); or it has ended: `succeeded`, `failed` (would fail again), `dead` (gave up after its
    last attempt), `cancelled`."""
    run: RunName | None
    """The run to whose log its pairs go."""
    priority: Annotated[Priority | str, Field(union_mode="left_to_right")]
    """Of the jobs that wait, those of a higher one are started first."""
    attempt: int
    """How many times a worker has started it."""
    created_at: datetime
    """When it was accepted."""
    started_at: datetime | None = None
    """Start of the latest attempt."""
    worker: str | None = None
    """Whose attempt that is, or was."""
    finished_at: datetime | None = None
    """When it ended; null: it has not."""
    result: Result | None = None
    """What it made; null: it has not succeeded."""
    error: JobError | None = None
    """Why it failed, died, or was last retried."""
    history: list[Attempt] = []
    """All attempts without success, oldest first."""
    metadata: dict[str, JsonValue] = {}
    """The request's, as it was given."""

    @property
    def ended(self) -> bool:
        """It will not be run again."""
        if isinstance(self.status, JobStatus):
            return self.status in ENDED
        return self.finished_at is not None  # a status of a later version


JobsState = Literal["open", "ended", "dead"]
"""`dead`: the dead letters."""


class JobsPage(Model):
    """A page of jobs."""

    jobs: list[Job]
    """Newest first, without their results."""
    before: str | None
    """Pass it as `before` to read on; null: there are no more."""


class Purged(Model):
    """What was deleted."""

    purged: int
    """Dead letters deleted."""
