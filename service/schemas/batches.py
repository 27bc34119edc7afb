"""Batches of pairs under a lease."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from service.schemas.base import GroupName, Model, RunName
from service.schemas.pairs import Pair

LeaseToken = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""The caller's name for a lease: letters, digits, underscore, hyphen; at most 64 characters."""


class LeaseRequest(Model):
    """`POST /runs/{run}/leases`."""

    group: GroupName = "trainer"
    """Groups see all pairs, each group independently; within one, each pair goes to one
    subscriber. The run's `gating_group` gates its window."""
    size: int = Field(default=8, ge=1, le=1024)
    """Pairs at most."""
    min_size: int | None = Field(default=None, ge=1, le=1024)
    """Pairs at least; by default `size`. Never more than the run's window is waited for."""
    wait_s: float = Field(default=0, ge=0)
    """How long to wait for them."""
    lease_s: float | None = Field(default=None, gt=0, le=24 * 3600)
    """Seconds without renewal after which the pairs are delivered again; by default the service's
    `batch_lease_s`."""
    token: LeaseToken | None = None
    """Names the lease, new for each; by default the service chooses one. Sent again with the same
    token, the request is answered with the same lease and the same pairs, and renews it; so it may
    be repeated when its answer was lost. Once the lease was acknowledged or handed back, its token
    is used up (410)."""

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        if self.min_size is not None and self.min_size > self.size:
            raise ValueError(f"`min_size` is {self.min_size}, above `size`, which is {self.size}")
        return self


class Delivery(Model):
    """How the pair of the same place in `pairs` is delivered."""

    cursor: str
    """Its place in the log: what `after` takes, to read on from here."""
    staleness: int | None
    """Newest version that a worker serves − the oldest that made it, at the time of the lease;
    null: not policy-made."""
    stale: bool
    """Lags more than `max_staleness` (of a run with `stale` = deliver)."""
    count: int
    """1: for the first time to this group."""


class Batch(Model):
    """Pairs under a lease: until `expires_at`, nobody else of the group gets them."""

    lease: str
    """Names the lease, to acknowledge, renew or hand back."""
    run: RunName
    """The run whose pairs they are."""
    group: GroupName
    """The subscriber group that took them."""
    expires_at: datetime
    """When the pairs are delivered again, if the lease is not renewed."""
    pairs: list[Pair]
    """Oldest first; what was handed back comes before."""
    deliveries: list[Delivery]
    """How each of them is delivered, in the same order."""


class LeaseState(Model):
    """A lease that was renewed."""

    lease: str
    """Its name."""
    expires_at: datetime
    """When it runs out now."""


class LeaseRenewal(Model):
    """`POST /runs/{run}/leases/{lease}/renew`."""

    lease_s: float | None = Field(default=None, gt=0, le=24 * 3600)
    """Seconds from now until it runs out; by default the service's `batch_lease_s`."""
