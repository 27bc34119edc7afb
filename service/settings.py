"""Settings of the service and of what talks to its Redis, from the environment.

Every field is `PREFSTREAM_<NAME>`, such as `PREFSTREAM_REDIS_URL`. Those of `NamespaceSettings` are
what a new namespace begins with; from then on they stand beside its data, and are changed there:
`prefstream settings`.
"""

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.addresses import check_redis_url
from service.schemas import TOLERANT, NamespaceSettings

NAMESPACE = r"^[a-z0-9_-]{1,32}$"


class Settings(BaseSettings, NamespaceSettings):  # pyright: ignore[reportIncompatibleVariableOverride]
    model_config = SettingsConfigDict(
        env_prefix="PREFSTREAM_", extra="ignore", hide_input_in_errors=True
    )

    redis_url: SecretStr | None = None
    """Redis or Valkey, such as `redis://127.0.0.1:6379/0`. Needed by `serve` and `work`. A secret,
    because it may hold a password."""
    namespace: str = Field(default="prefstream", pattern=NAMESPACE)
    """Prefix of all keys, so that several deployments can share one server. Each serves one model:
    workers of another one do not start."""
    api_key: SecretStr | None = None
    """If set, every request but the health checks needs `Authorization: Bearer <key>`."""

    fsync_timeout_s: float = Field(default=5.0, gt=0)
    """Longest wait for the disk, where `durability` is `fsync`."""
    max_body_bytes: int = Field(default=64 * 2**20, ge=1)
    """Of one request over HTTP."""
    max_wait_s: float = Field(default=300.0, gt=0)
    """Longest that a request may wait for a job."""

    @field_validator("redis_url", mode="after")
    @classmethod
    def _usable(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            check_redis_url(url.get_secret_value())
        return url

    def of_namespace(self, *, given_only: bool = False) -> NamespaceSettings:
        """Those that all who use the namespace hold alike; or only those of them that the
        environment gives."""
        names = NamespaceSettings.model_fields.keys()
        chosen = names & self.model_fields_set if given_only else names
        return NamespaceSettings.model_validate(self.model_dump(include=set(chosen)), **TOLERANT)

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
