"""Settings of a trainer: `PREFSTREAM_TRAINER_<NAME>`, a TOML file, or `prefstream train --…`.

The command line goes before the environment, and the environment before the file. Defaults are the
paper's (arXiv 2407.02477, appendix on hyper-parameters) where it has one.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from service.checkpoints.settings import InputSettings
from service.schemas import GroupName, RunName

Loss = Literal["dpo", "ipo", "slic", "sft"]

Part = Literal["language_model", "projector", "tower"]
"""Of a LLaVA model. The projector includes LLaVA-NeXT's embedding for the end of a row."""

BETAS: dict[Loss, float] = {"dpo": 0.1, "ipo": 0.9, "slic": 0.1}
"""A middle value of those that the paper searched. `sft` has none."""

Method = Literal["online", "offline", "mixed", "averaged"]

METHOD_FIELDS: dict[str, tuple[Method, ...]] = {
    "data": ("offline", "mixed"),
    "data_images": ("offline", "mixed"),
    "offline_share": ("mixed",),
    "gamma": ("averaged",),
}
"""Fields that have an effect with some methods only."""


class InvalidSettings(ValueError):
    """The settings do not go together, with each other or with the checkpoints that are there."""


class TrainerSettings(InputSettings):
    model_config = SettingsConfigDict(env_prefix="PREFSTREAM_TRAINER_", extra="forbid")

    url: str = Field(default="http://127.0.0.1:8000", pattern=r"^(https?|rediss?|unix)://")
    """The service (http://, https://), or inside the cluster its server (redis://, rediss://)."""
    api_key: SecretStr | None = None
    """The service's, if it asks for one."""
    namespace: str | None = None
    """The service's, if it is not the default one; for redis:// addresses."""
    run: RunName = "main"
    """The run whose pairs are trained on."""
    group: GroupName = "trainer"
    """The subscriber group. The run's `gating_group` (by default `trainer`) gates its window."""
    lease_s: float = Field(default=60.0, gt=0, le=24 * 3600)
    """Seconds without renewal after which a dead trainer's pairs are delivered again. They are
    renewed every third of it."""

    model: str = "toy"
    """The policy before training, and the reference model: a local folder, a hub name, or `toy`."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the frozen weights and of published full weights; what is trained is float32. auto:
    bfloat16 on a GPU, float32 on a CPU."""
    output: Path = Path("train-out")
    """Folder of the checkpoints, the TensorBoard logs and the list of the pairs of each step."""

    method: Method = "online"
    """Where the pairs come from. online: the run; offline: `data`; mixed: for each example one of
    the two, by chance (the paper's Mixed-DPO); averaged: the run, whose pairs carry a second
    rejected side from a data set, and the loss is the mean over both (its averaged DPO)."""
    data: str | None = None
    """The data set of offline and mixed: any that `prefstream feed` reads (docs/data.md)."""
    data_images: list[Path] | None = None
    """Folders in which its images are looked for, before its own."""
    offline_share: float | None = Field(default=None, ge=0, le=1)
    """p of mixed: the chance that an example is an offline pair. By default the paper's 0.5."""
    gamma: float | None = Field(default=None, ge=0, le=1)
    """γ of averaged: the weight of the data set's rejected side; the policy's has 1 − γ. By
    default the paper's 0.5."""

    loss: Loss = "dpo"
    """The paper runs the first three; TRL calls them sigmoid, ipo and hinge. sft: the chosen side's
    negative log-likelihood alone (per token), the control of an experiment."""
    beta: float | None = Field(default=None, gt=0)
    """β of the loss. Searched: dpo 0.05, 0.1, 0.2, 0.5; ipo 0.8, 0.9, 1.0; slic 0.02, 0.1, 0.2.
    By default 0.1, 0.9, 0.1."""
    nll_weight: float = Field(default=0.0, ge=0)
    """Weight of the chosen side's negative log-likelihood (per token), added to the loss. TRL's
    `sft` loss; 0: none, as in the paper."""
    train: Literal["lora", "full"] = "lora"
    """lora: an adapter of the language model, beside which workers serve on. full: the `parts`
    themselves; all weights are published, and a frozen copy is the reference model."""
    parts: list[Part] | None = Field(default=None, min_length=1)
    """What learns, of full weights; by default the language model and the projector."""
    projector_learning_rate: float | None = Field(default=None, gt=0)
    """Of the projector, where it learns; by default as the rest. Searched: 2e-7 to 2e-5."""
    lora_rank: int = Field(default=128, ge=1)
    """Paper: 128. Workers must allow it (vLLM's `max_lora_rank`)."""
    lora_alpha: int = Field(default=256, ge=1)
    """Paper: 256, twice the rank."""
    target_modules: str | None = None
    """Regular expression of the full names of the modules that get an adapter. By default all
    linear layers of the language model, which is all that workers can serve."""
    learning_rate: float = Field(default=1e-6, gt=0)
    """Searched: 1e-7 to 5e-6, for LLaVA 1.6-7B."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Of the learning rate. A live stream has no natural end for it to fall towards."""
    warmup_steps: int = Field(default=0, ge=0)
    """Optimizer steps over which the learning rate rises from 0."""
    batch_size: int = Field(default=16, ge=1)
    """Pairs of an optimizer step, over all processes. Searched: 16, 32, 48."""
    device_batch_size: int = Field(default=4, ge=1)
    """Pairs that one process holds in memory at once, at most; the rest is accumulated."""
    steps: int = Field(default=1000, ge=1)
    """Optimizer steps, those before a resume included."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """0: gradients are not clipped."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass: less memory, some 20 % more time."""
    seed: int = Field(default=0, ge=0)
    """Of the adapter's first weights, of the order of `data`, and of the draws of mixed."""

    read_ahead: int = Field(default=1, ge=0)
    """Steps whose pairs are fetched and processed while another step computes. Each makes the
    pairs one step older."""
    checkpoint_every: int = Field(default=20, ge=1)
    """Optimizer steps between checkpoints. Pairs are acknowledged at a checkpoint, so this many
    steps are computed again, at most, after a crash."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Older ones are removed."""
    log_every: int = Field(default=1, ge=1)
    """Optimizer steps between two rows of figures."""
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Port of /metrics, for Prometheus; by default it is not served."""
    metrics_host: str = "127.0.0.1"
    """Address that it is served on; `0.0.0.0` in a container."""

    weights: str | None = None
    """The weight store that workers read: a folder or an fsspec URL (`s3://…`). By default
    `weights` in the output folder."""
    publish_every: int = Field(default=10, ge=0)
    """Optimizer steps between published versions; 0: nothing is published."""
    publish_wait: Literal["none", "all"] = "none"
    """all: after publishing, wait until every live worker serves the version or has refused it."""
    publish_wait_s: float = Field(default=300.0, gt=0)
    """Seconds of that wait, at most."""
    keep_versions: int = Field(default=4, ge=2)
    """Older ones are removed from the store; workers serve from copies of their own."""

    @model_validator(mode="after")
    def _settings_that_go_together(self) -> "TrainerSettings":
        """What would have no effect is refused: whoever set it expects one."""
        for name, methods in METHOD_FIELDS.items():
            if getattr(self, name) is not None and self.method not in methods:
                raise ValueError(
                    f"`{name}` has no effect with `method` = {self.method}; it is for "
                    f"{' and '.join(methods)}"
                )
        if self.method in METHOD_FIELDS["data"] and self.data is None:
            raise ValueError(f"`method` = {self.method} needs `data`, a data set of pairs")
        if self.loss == "sft" and (self.beta is not None or self.nll_weight):
            raise ValueError("`loss` = sft is the NLL term alone: leave out `beta`, `nll_weight`")
        return self

    @model_validator(mode="after")
    def _follow_on(self) -> "TrainerSettings":
        if self.loss != "sft" and self.beta is None:
            self.beta = BETAS[self.loss]
        if self.method == "mixed" and self.offline_share is None:
            self.offline_share = 0.5
        if self.method == "averaged" and self.gamma is None:
            self.gamma = 0.5
        if self.weights is None:
            self.weights = str(self.output.absolute() / "weights")
        if self.train == "full":
            self.parts = self.parts or ["language_model", "projector"]
        elif self.parts or self.projector_learning_rate:
            raise ValueError(
                '`parts` and `projector_learning_rate` are for `train = "full"`: an adapter is of '
                "the language model alone"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def read_settings(config: Path | None, given: dict[str, Any]) -> TrainerSettings:
    """Settings from what the command line gave (None: nothing), the environment, and a TOML file.

    Raises: pydantic.ValidationError, OSError, tomllib.TOMLDecodeError.
    """

    class Configured(TrainerSettings):
        model_config = SettingsConfigDict(toml_file=config)

    if config is not None and not config.is_file():  # pydantic-settings would pass over it
        raise FileNotFoundError(f"There is no file {config}.")
    return Configured(**{name: value for name, value in given.items() if value is not None})
