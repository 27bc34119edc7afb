"""Versions of the policy's weights: published, announced, refused, withdrawn."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from service.schemas.base import MAX_VERSION, Model, RunName, one_of
from service.schemas.health import WorkerInfo

WeightsKind = Annotated[Literal["lora", "full"] | str, one_of("lora", "full")]
"""An adapter of the language model, or a whole checkpoint."""


class WeightFile(Model):
    """One file of a version."""

    bytes: int
    """Its size."""
    sha256: str
    """64 hexadecimal digits."""


class WeightManifest(Model):
    """`manifest.json` in a version's folder of the weight store. It lists all other files."""

    version: int = Field(ge=1)
    """Grows with every publication; 0 is the model that the workers were started with."""
    kind: WeightsKind
    """`lora`: an adapter of the language model. `full`: a whole checkpoint."""
    files: dict[str, WeightFile]
    """By name; a version's folder has no folders in it."""
    step: int | None = None
    """The trainer's optimizer steps so far."""
    run: RunName | None = None
    """The run whose pairs it was trained on."""
    created_at: datetime
    """When it was published."""


class WeightVersion(Model):
    """A published version: the body of `POST /weights`."""

    version: int = Field(ge=1, le=MAX_VERSION)
    """Grows with every publication; 0 is the model that the workers were started with."""
    kind: WeightsKind
    """`lora`: an adapter of the language model. `full`: a whole checkpoint."""
    location: str = Field(max_length=2048)
    """Where its folder is: a path or an fsspec URL that every worker can read."""
    manifest_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the bytes of `manifest.json`."""


class Refusal(Model):
    """A worker's word that it will not serve a version."""

    worker_id: str
    """The worker's `id`."""
    version: int
    """The version that it will not serve."""
    reason: str
    """What is wrong with it, in words."""
    refused_at: datetime
    """When it refused."""


class Weights(Model):
    """`GET /weights`."""

    newest: WeightVersion | None
    """The newest version announced and not withdrawn; null: none."""
    workers: list[WorkerInfo]
    """Each with the version it gives to new requests."""
    refused: list[Refusal]
    """Versions that some worker will not serve, and why."""
    withdrawn: list[int] = []
    """Versions that were withdrawn, of late. Their numbers are not used again."""
