"""Runs: settings, figures, subscriber groups."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from service.schemas.base import GroupName, Model, RunName, one_of
from service.schemas.filters import PairFilters


class RunSettings(Model):
    """`PUT /runs/{run}`: a run's settings. Those that are not named stay as they are; in a new run,
    as by default."""

    window: int = Field(default=256, ge=1, le=1_000_000)
    """Open jobs plus pairs not yet taken by the gating group, at most; beyond it: 429."""
    gating_group: GroupName | None = "trainer"
    """The subscriber group whose progress the window follows, and for which the log is kept however
    long it takes. null: none; the window bounds open jobs alone, and of the pairs the newest `keep`
    are kept, whoever has acknowledged them."""
    group_ttl_s: float | None = Field(default=24 * 3600, gt=0)
    """Seconds without a request for pairs, a lease that stands or an acknowledgement, after which
    the log is no longer kept for a group other than the gating one; null: it always is."""
    max_staleness: int | None = Field(default=None, ge=0)
    """Weight versions that a pair may lag behind the newest that a worker serves; null: any."""
    stale: Annotated[Literal["drop", "deliver"] | str, one_of("drop", "deliver")] = "drop"
    """What happens to pairs that lag further: set aside and counted, or delivered and marked."""
    similar: Annotated[Literal["keep", "drop"] | str, one_of("keep", "drop")] = "keep"
    """What happens to BDHS's answers that are still at or above ε_s after the last iteration: they
    are pairs like others (as in the paper), or left out."""
    filters: PairFilters = PairFilters()
    """Pairs beyond these are left out of the log, counted, and kept apart for reading."""
    keep: int = Field(default=10_000, ge=0)
    """Pairs that every group has acknowledged (or without a gating group: all pairs) that are kept
    for reading, at most; and of those that were left out, the newest."""
    retention: int | None = Field(default=None, ge=1)
    """Pairs kept at most, acknowledged or not; what a group misses by it is counted. null: what a
    group has not acknowledged is kept. It bounds those that were left out, too."""


class Bucket(Model):
    """A bar of a histogram."""

    le: float | None
    """Values up to this, and above the bar before; null: all above."""
    count: int
    """How many."""


class Distribution(Model):
    """How a figure of a run's pairs is spread."""

    count: int
    """Pairs that have the figure."""
    mean: float
    """Of them."""
    buckets: list[Bucket]
    """In order."""


class Group(Model):
    """A subscriber group of a run, in pairs."""

    name: GroupName
    """Its name."""
    waiting: int
    """Not yet taken."""
    leased: int
    """Taken by a subscriber that has not acknowledged them yet."""
    returned: int
    """Handed back, or their lease ran out; next to be delivered again."""
    acknowledged: int
    """Ever acknowledged; they are not delivered to it again."""
    stale: int
    """Ever set aside, because they lagged more than `max_staleness` versions."""
    missed: int
    """Trimmed before they were acknowledged: by `retention`, or because the log was not kept for
    the group."""
    redelivered: int
    """Ever handed back or expired."""
    last_active_at: datetime | None = None
    """When it last asked for pairs or acknowledged some; null: its release does not say."""


class Run(Model):
    """A run: its settings and its figures."""

    name: RunName
    """Its name."""
    settings: RunSettings
    """As they were set, or by default."""
    epoch: str
    """Random, new with every birth of the run's log; part of every cursor."""
    open_jobs: int
    """Jobs that have not ended."""
    running_jobs: int
    """Of those, the ones that a worker has now."""
    oldest_open_at: datetime | None
    """When the oldest open job was accepted."""
    dead_jobs: int
    """Ever ended in the dead letters."""
    pairs: int
    """Ever appended."""
    outcomes: dict[str, int]
    """What came of its jobs that could make a pair, and of pairs of data sets: how many of each
    `outcome`."""
    filtered: dict[str, int]
    """How many pairs lay beyond each of its filters; one pair may be beyond several."""
    distributions: dict[str, Distribution]
    """Of the appended pairs' figures, by name: those of `filters`, `token_difference` (rejected
    less chosen) and `iterations`."""
    trimmed: int
    """Of the pairs ever appended, no longer kept."""
    groups: list[Group]
    """Its subscriber groups."""
