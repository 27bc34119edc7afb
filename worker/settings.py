"""Settings of a worker, from the environment: `PREFSTREAM_WORKER_<NAME>`, or `prefstream work`."""

from typing import Any

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from service.checkpoints.settings import InputSettings


class WorkerSettings(InputSettings):
    model_config = SettingsConfigDict(env_prefix="PREFSTREAM_WORKER_", extra="ignore")

    model: str = "toy"
    """The policy: a local folder, a hub name, or `toy` for the model that is shipped."""
    embedder: str = "sentence-transformers/all-mpnet-base-v2"
    """Any sentence-transformers model (paper: all-mpnet-base-v2), or `embedded` for the
    all-MiniLM-L6-v2 that the extra `embedded` installs."""
    unproven: bool = False
    """Take a model whose family is not proven, after a check at start (docs/families.md)."""
    slots: int = Field(default=32, ge=1)
    """Jobs worked on at once, at most. Their sentences share the engine's batch."""
    dtype: str = "auto"
    """As vLLM's `dtype`."""
    max_model_len: int | None = Field(default=None, ge=16)
    """Longest sequence, in tokens; by default the model's own."""
    max_num_seqs: int = Field(default=64, ge=1)
    """Sequences that the engine decodes together, at most."""
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    """Share of the memory that vLLM may take. By default 0.9 of a GPU's; on a CPU what the model
    and a cache for `max_num_seqs` sequences need (docs/deploy.md)."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    max_lora_rank: int = Field(default=128, ge=1, le=512)
    """Highest rank of an adapter that is adopted (paper: 128). Memory is set aside for it."""
    max_loras: int = Field(default=2, ge=2)
    """Weight versions served at once, beside the model itself: the newest, and older ones whose
    last jobs still run."""
    enforce_eager: bool = False
    """Skip graph capture: a quicker start, slower decoding."""
    feature_cache_gib: float = Field(default=1.0, ge=0)
    """Host memory, GiB, in which the engine keeps what its vision tower made of images, so that
    further masks of an image do not run it again. LLaVA-1.6-7B: some 23 MiB an image."""
    engine_args: dict[str, Any] = Field(default={})
    """Any further argument of vLLM's AsyncEngineArgs, as JSON."""
    annotator_url: str | None = Field(default=None, pattern=r"^https?://")
    """Of the annotator `openai`: an endpoint of OpenAI's chat completions that sees images, such as
    `http://127.0.0.1:8001/v1` of a `vllm serve`."""
    annotator_model: str | None = None
    """Its model; by default the first that the endpoint lists."""
    annotator_api_key: SecretStr | None = None
    """Its key, if it asks for one."""
    annotator_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds for each of connecting, sending, and waiting for the next bytes."""
    annotator_attempts: int = Field(default=4, ge=1)
    """Calls of one question before the job is put back for a later attempt."""
    annotator_connections: int = Field(default=16, ge=1)
    """Questions asked at once, at most."""
    drain_s: float = Field(default=30.0, ge=0)
    """After SIGTERM or Ctrl-C: seconds for running jobs to end before they are handed back."""
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Port of /health/live, /health/ready and /metrics; by default they are not served."""
    metrics_host: str = "127.0.0.1"
    """Address that they are served on; `0.0.0.0` in a container."""
    engine_stall_s: float = Field(default=120.0, gt=0)
    """Seconds without an answer from the engine after which it counts as dead."""
    fetch_timeout_s: float = Field(default=600.0, gt=0)
    """Seconds that a version may take to be brought from the weight store. Then it is refused."""
    load_timeout_s: float = Field(default=600.0, gt=0)
    """Seconds that full weights may take to load while requests are held. Then they are refused
    and the engine is started again with those it had."""

    @field_validator("engine_args")
    @classmethod
    def _embeddings_pass_by_us(cls, engine_args: dict[str, Any]) -> dict[str, Any]:
        """vLLM's graphs of the vision tower bypass `embed_multimodal`, which leaves rows out."""
        compilation = engine_args.get("compilation_config")
        if isinstance(compilation, dict) and compilation.get("cudagraph_mm_encoder"):
            raise ValueError("`cudagraph_mm_encoder` would ignore which image tokens are hidden")
        return engine_args

    @field_validator("annotator_url")
    @classmethod
    def _without_slash(cls, url: str | None) -> str | None:
        return url and url.rstrip("/")
