"""Settings of the service and of what talks to its Redis, from the environment.

Every field is `PREFSTREAM_<NAME>`, such as `PREFSTREAM_REDIS_URL`.
"""

from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

NAMESPACE = r"^[a-z0-9_-]{1,32}$"


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="PREFSTREAM_", extra="ignore")

    redis_url: SecretStr | None = None
    """Redis or Valkey, such as `redis://127.0.0.1:6379/0`. Needed by `serve` and `work`. A secret,
    because it may hold a password."""
    namespace: str = Field(default="prefstream", pattern=NAMESPACE)
    """Prefix of all keys, so that several deployments can share one server. Each serves one model:
    workers of another one do not start."""
    api_key: SecretStr | None = None
    """If set, every request but the health checks needs `Authorization: Bearer <key>`."""

    durability: Literal["server", "fsync"] = "server"
    """When a job is accepted: `server`, as soon as the server has it (on disk at its next AOF
    sync); `fsync`, once the server says that it is on disk (WAITAOF: Valkey, Redis from 7.2)."""
    fsync_timeout_s: float = Field(default=5.0, gt=0)
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
    result_ttl_s: float = Field(default=24 * 3600, gt=0)
    """Seconds that an ended job stays readable. Its pair, in a run's log, stays on its own."""
    max_ended_jobs: int = Field(default=100_000, ge=1)
    """Ended jobs that stay readable, at most; the oldest go first. Dead letters count apart."""
    batch_lease_s: float = Field(default=60.0, gt=0)
    """Seconds without renewal after which a batch is delivered again, if its subscriber sets none.
    The client renews every third."""
    idempotency_ttl_s: float = Field(default=24 * 3600, gt=0)
    image_ttl_s: float = Field(default=7 * 24 * 3600, gt=0)
    """Seconds that an image stays after it was last put, named by a job, or claimed."""

    max_body_bytes: int = Field(default=64 * 2**20, ge=1)
    max_images: int = Field(default=8, ge=1)
    """Images in one `/sample` request."""
    max_image_bytes: int = Field(default=16 * 2**20, ge=1)
    """Encoded size of one image."""
    max_image_pixels: int = Field(default=32_000_000, ge=1)
    """Decoded size of one image: a bound against decompression bombs."""
    max_text_chars: int = Field(default=100_000, ge=1, le=2**20)
    """Characters of a request's text in all; a token that is given by its id counts as one."""
    max_wait_s: float = Field(default=300.0, gt=0)
    """Longest that a request may wait for a job."""

    @field_validator("redis_url", mode="after")
    @classmethod
    def _known_scheme(cls, url: SecretStr | None) -> SecretStr | None:
        known = ("redis://", "rediss://", "unix://")
        if url is not None and not url.get_secret_value().startswith(known):
            raise ValueError(f"must start with one of {', '.join(known)}")
        return url

    @property
    def redis_address(self) -> str:
        """The Redis URL, or an error that says what to set."""
        if self.redis_url is None:
            raise MissingRedis(
                "No Redis address. Set PREFSTREAM_REDIS_URL, for example "
                "PREFSTREAM_REDIS_URL=redis://127.0.0.1:6379/0 "
                "(or run `prefstream up`, which brings a server of its own)."
            )
        return self.redis_url.get_secret_value()


class MissingRedis(ValueError):
    """A command that needs a Redis was started without the address of one."""
