"""Settings that all who use a namespace hold alike: service, workers, clients on its Redis."""

from typing import Annotated, Literal

from pydantic import Field

from service.schemas.base import Model, one_of


class NamespaceSettings(Model):
    """What stands beside the data, in Redis. `PATCH /settings` changes the fields that it is
    given."""

    durability: Annotated[Literal["server", "fsync"] | str, one_of("server", "fsync")] = "server"
    """When a job is accepted: `server`, as soon as the server has it (on disk at its next AOF
    sync); `fsync`, once the server says that it is on disk (WAITAOF: Valkey, Redis from 7.2)."""
    max_queue_depth: int = Field(default=10_000, ge=1)
    """Open jobs at most; beyond it a POST is answered with 429."""
    lease_s: float = Field(default=30.0, gt=0)
    """Seconds without renewal after which a job is given to another worker. Renewed every third."""
    worker_ttl_s: float = Field(default=15.0, gt=0)
    """Seconds after its last heartbeat that a worker is no longer listed."""
    max_attempts: int = Field(default=3, ge=1)
    """Attempts after which a job goes to the dead letters."""
    retry_base_s: float = Field(default=1.0, ge=0)
    """First retry delay; doubles with each attempt, with jitter."""
    retry_max_s: float = Field(default=60.0, ge=0)
    """Longest retry delay."""
    result_ttl_s: float = Field(default=24 * 3600, gt=0)
    """Seconds that an ended job stays readable. Its pair, in a run's log, stays on its own."""
    max_ended_jobs: int = Field(default=100_000, ge=1)
    """Ended jobs that stay readable, at most; the oldest go first. Dead letters count apart."""
    max_ended_bytes: int = Field(default=2**30, ge=1)
    """Bytes of ended jobs that stay readable, with their requests and results; the oldest go first.
    Dead letters count apart."""
    batch_lease_s: float = Field(default=60.0, gt=0)
    """Seconds without renewal after which a batch is delivered again, if its subscriber sets none.
    The client renews every third."""
    idempotency_ttl_s: float = Field(default=24 * 3600, gt=0)
    """Seconds that an idempotency key, or the id of a data set's pair, is remembered."""
    image_ttl_s: float = Field(default=7 * 24 * 3600, gt=0)
    """Seconds that an image stays after it was last put, named by a job, or claimed."""

    max_images: int = Field(default=8, ge=1)
    """Images in one request."""
    max_image_bytes: int = Field(default=16 * 2**20, ge=1)
    """Encoded size of one image."""
    max_image_pixels: int = Field(default=32_000_000, ge=1)
    """Decoded size of one image: a bound against decompression bombs."""
    max_text_chars: int = Field(default=100_000, ge=1, le=2**20)
    """Characters of a request's text in all; a token that is given by its id counts as one."""
