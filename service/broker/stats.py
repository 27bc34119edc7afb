"""What the broker counts, for /metrics: derived from the sets and lanes at the moment of asking."""

from dataclasses import dataclass
from typing import Any

from service.broker.connection import Connection, fields_of
from service.broker.runs import counts_of
from service.broker.scripts import script


@script("stats/read.lua")
def _read() -> list[Any]: ...


@dataclass(frozen=True, slots=True)
class GroupStats:
    """Of a group of subscribers, in pairs."""

    run: str
    group: str
    waiting: int
    acknowledged: int
    stale: int
    """Ever set aside as too stale."""
    staleness_sum: int
    """Of all policy-made pairs ever leased, in weight versions."""
    staleness_count: int
    """How many those are."""


@dataclass(frozen=True, slots=True)
class RunStats:
    pairs: int
    """Ever appended."""
    open_jobs: int
    outcomes: dict[str, int]
    """Of its jobs that could make a pair, and of pairs of data sets."""
    filtered: dict[str, int]
    """Pairs left out, by filter."""


@dataclass(frozen=True, slots=True)
class Stats:
    queued: dict[str, int]
    """By priority."""
    wait_s: dict[str, float]
    """How long the first in line has waited, by priority."""
    running: int
    retrying: int
    dead_letters: int
    leases_lost: int
    """Attempts ever given up because their worker fell silent."""
    ended: dict[str, int]
    """Jobs ever ended, by status."""
    runs: dict[str, RunStats]
    groups: list[GroupStats]


async def read_stats(connection: Connection) -> Stats:
    lanes, running, retrying, dead, counters, runs, groups = await connection.run(_read)
    queued: dict[str, int] = {}
    wait_s: dict[str, float] = {}
    for priority, count, wait_ms in lanes:
        queued[priority] = queued.get(priority, 0) + count
        wait_s[priority] = max(wait_s.get(priority, 0.0), wait_ms / 1000)
    counts = {name: int(count) for name, count in fields_of(counters).items()}
    return Stats(
        queued=queued,
        wait_s=wait_s,
        running=running,
        retrying=retrying,
        dead_letters=dead,
        leases_lost=counts.pop("leases_lost", 0),
        ended={name: count for name, count in counts.items() if not name.endswith("_bytes")},
        runs={run: _run_stats(open_jobs, flat) for run, open_jobs, flat in runs},
        groups=[GroupStats(run, group, *map(int, counts)) for run, group, *counts in groups],
    )


def _run_stats(open_jobs: int, flat: list[str]) -> RunStats:
    fields = fields_of(flat)
    return RunStats(
        pairs=int(fields["pairs"]),
        open_jobs=open_jobs,
        outcomes=counts_of("outcome", fields),
        filtered=counts_of("filtered", fields),
    )
