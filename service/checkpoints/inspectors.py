"""What worker and trainer know of a checkpoint, each in its own words.

They are entry points of the group `prefstream.inspectors`, named for the field of the report that
they fill: functions of a `Checkpoint` that return a `Judgement`. Neither is imported by the
service, and either may be absent.
"""

from dataclasses import dataclass, field
from typing import Any

from service.checkpoints.report import Finding, Serving, Training

GROUP = "prefstream.inspectors"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint without its weights."""

    name: str
    """A folder or a hub name."""
    architecture: str | None
    """As its config.json names it."""
    config: Any
    """transformers'; None: transformers does not know the model."""
    model: Any
    """transformers' model on the meta device: names and shapes, and no memory; None: it cannot be
    made."""
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Judgement:
    """Of a checkpoint, by worker or trainer."""

    judged: Serving | Training
    problems: list[Finding] = field(default_factory=list[Finding])
    notes: list[Finding] = field(default_factory=list[Finding])
