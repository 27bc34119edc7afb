"""Whether the service can work, and its workers."""

from datetime import datetime
from typing import Literal

from service.schemas.base import Model
from service.schemas.inputs import InputDigest


class WorkerInfo(Model):
    """What a worker says of itself with every heartbeat."""

    id: str
    """Its name, and no other worker's."""
    model: str
    """The model it serves, by the name that it was started with; a folder by its whole path."""
    weight_version: int
    """Given to new requests; 0 is the model that the worker was started with."""
    slots: int
    """Jobs it works on at once, at most."""
    running: int
    """Jobs it works on now."""
    engine_ready: bool
    """False: its engine has failed, and it takes no jobs."""
    heartbeat_at: datetime
    """When it said so."""
    kinds: list[str] = []
    """The kinds of jobs that it claims; empty: its release does not say."""
    input_digest: InputDigest | None = None
    """How it makes tokens and pixels of requests; null: its release does not say."""


class Health(Model):
    """`GET /health/ready`."""

    status: Literal["ok", "unavailable"] | str
    """`ok`: jobs can be taken in."""
    redis: bool
    """Whether Redis answers."""
    workers: list[WorkerInfo] = []
    """Those alive. Without one, jobs are accepted and wait."""
    failing: list[str] = []
    """Background tasks that do not do their work: `sweeper` (deadlines, leases, retries),
    `image sweeper`, `notifications` (who waits is told later). The log says why."""
