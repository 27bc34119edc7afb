"""What the experiment compares, and at what size."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Source = Literal[
    "bdhs", "noise", "povid", "answer", "own", "online-bdhs", "online-scene", "online-self"
]
"""Where a method's pairs come from. The first five are made by the base before training and kept in
a file; the others are made by the policy as it is, while it trains.

bdhs, noise, povid, answer: the rejected sides of true answers. own: of the base's own captions,
bias and all. online-scene, online-self: two samples, ranked by the scene or by the policy."""

ONLINE: frozenset[Source] = frozenset({"online-bdhs", "online-scene", "online-self"})


class ExperimentPlan(BaseModel):
    """The size of all cells, which are comparable only if it is the same."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    references: int = Field(default=256, ge=2)
    """Questions with true answers that pairs are made from; half captions, half yes/no."""
    steps: int = Field(default=60, ge=1)
    """Optimizer steps."""
    batch_size: int = Field(default=8, ge=1)
    """Pairs of a step."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """Of the adapter (rank 16). Searched: see docs/experiments/toy.md."""
    full_learning_rate: float = Field(default=5e-5, gt=0)
    """Of full weights."""
    beta: float = Field(default=0.1, gt=0)
    images: int = Field(default=500, ge=2)
    """Held-out scenes of a measurement; half captions, half yes/no."""
    rho: float = Field(default=0.99, ge=0, le=1)
    similarity_threshold: float = Field(default=0.9995, ge=-1, le=1)
    """ε_s: far above the paper's 0.97, because in this world every word counts, and a sentence
    embedder hardly hears the difference between a red and a blue circle."""
    publish_every: int = Field(default=10, ge=1)
    """Optimizer steps between versions, where pairs are made online."""


@dataclass(frozen=True)
class Method:
    """A row of the table."""

    name: str
    label: str
    source: Source | None
    """None: the base is measured as it is."""
    training: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The trainer's settings that make it what it is."""

    @property
    def online(self) -> bool:
        """Whether pairs are made while it trains."""
        return self.source in ONLINE

    @property
    def file(self) -> Source | None:
        """The pairs that are made before training."""
        if self.training.get("method") == "mixed":
            return "bdhs"
        return None if self.online else self.source

    @property
    def full(self) -> bool:
        """Whether it changes the weights beside which adapters are served."""
        return self.training.get("train") == "full"


SEEDS = 3
"""Of every method: 0 … SEEDS − 1."""

NLL = {"nll_weight": 1.0}

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("base", "biased base", None),
        Method("sft", "SFT on the chosen sides (control)", "bdhs", {"loss": "sft"}),
        Method("dpo-bdhs", "DPO, offline BDHS", "bdhs", {}),
        Method("dpo-bdhs-nll", "DPO + NLL, offline BDHS", "bdhs", NLL),
        Method("online-bdhs", "DPO + NLL, online BDHS", "online-bdhs", NLL),
        Method("online-dpo-scene", "online-DPO + NLL, judged by the scene", "online-scene", NLL),
        Method("dpo-noise", "DPO + NLL, BDHS with noise", "noise", NLL),
        Method("dpo-povid", "DPO + NLL, POVID-style distortion", "povid", NLL),
        Method("dpo-answer", "DPO + NLL, half the answer completed unseen", "answer", NLL),
        Method("online-dpo-self", "online-DPO + NLL, judged by itself", "online-self", NLL),
        Method(
            "mixed-dpo",
            "Mixed-DPO + NLL (p = 0.5), offline BDHS and online judged by the scene",
            "online-scene",
            {"method": "mixed", **NLL},
        ),
        Method(
            "averaged-dpo",
            "averaged DPO + NLL (γ = 0.5), the data set's y⁻ and online BDHS",
            "online-bdhs",
            {"method": "averaged", **NLL},
        ),
        Method(
            "full-weights",
            "DPO + NLL, offline BDHS, full weights",
            "bdhs",
            {"train": "full", **NLL},
        ),
        Method("sft-own", "SFT on the base's own captions", "own", {"loss": "sft"}),
        Method("dpo-own", "DPO, BDHS of the base's own captions", "own", {}),
    )
}
"""In the order of the table, which is also that of running."""


def training(plan: ExperimentPlan, method: Method) -> dict[str, Any]:
    """The trainer's settings of a method that do not depend on where it runs."""
    return {
        "method": "online" if method.online else "offline",
        "beta": None if method.training.get("loss") == "sft" else plan.beta,
        "learning_rate": plan.full_learning_rate if method.full else plan.learning_rate,
        "batch_size": plan.batch_size,
        "device_batch_size": plan.batch_size,
        "gradient_checkpointing": False,
        "lora_rank": 16,
        "lora_alpha": 32,
        "steps": plan.steps,
        "checkpoint_every": plan.steps,
        "publish_every": plan.publish_every if method.online else plan.steps,
        "publish_wait": "all",
        **method.training,
    }
