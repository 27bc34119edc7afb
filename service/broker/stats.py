"""What the broker counts, for /metrics: derived from the sets and lanes at the moment of asking."""

from dataclasses import dataclass

from service.broker.runs import WAITING
from service.broker.store import Script, Store

FIGURES = Script(
    WAITING
    + """
-- Milliseconds since the first job that no worker has taken entered the lane; 0: none.
local function wait_of(lane)
  local from, groups = '-', redis.pcall('XINFO', 'GROUPS', lane_key(lane))
  for _, info in ipairs(groups.err and {} or groups) do
    for i = 1, #info, 2 do
      if info[i] == 'last-delivered-id' then from = '(' .. info[i + 1] end
    end
  end
  local entry = redis.call('XRANGE', lane_key(lane), from, '+', 'COUNT', 1)[1]
  return entry and math.max(0, now() - string.match(entry[1], '^%d+')) or 0
end

local queued, running = {}, 0
for _, lane in ipairs(LANES) do
  local length, pending = redis.call('XLEN', lane_key(lane)), 0
  local reply = redis.pcall('XPENDING', lane_key(lane), GROUP)
  if not reply.err then pending = reply[1] end
  queued[#queued + 1] = {string.match(lane, '^%a+'), length - pending, wait_of(lane)}
  running = running + pending
end
local runs, groups = {}, {}
for _, run in ipairs(redis.call('SMEMBERS', NS .. ':runs')) do
  local counts = redis.call('HMGET', run_key(run), 'pairs', 'ties', 'unreadable')
  runs[#runs + 1] = {run, counts[1], redis.call('ZCARD', run_key(run) .. ':open'),
    counts[2] or 0, counts[3] or 0}
  for _, group in ipairs(redis.call('SMEMBERS', run_key(run) .. ':groups')) do
    local state = redis.call('HMGET', group_key(run, group), 'acknowledged', 'stale', 'lag', 'aged')
    groups[#groups + 1] = {run, group, waiting(run, group), state[1] or 0, state[2] or 0,
      state[3] or 0, state[4] or 0}
  end
end
return {queued, running, redis.call('ZCARD', NS .. ':retries'), redis.call('ZCARD', NS .. ':dead'),
  redis.call('HGETALL', NS .. ':stats'), runs, groups}
"""
)


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """A subscriber group's, in pairs."""

    run: str
    group: str
    waiting: int
    acknowledged: int
    stale: int
    """Ever set aside as too stale."""
    lag: int
    """Staleness, in weight versions, summed over all policy-made pairs ever leased."""
    aged: int
    """How many those are."""


@dataclass(frozen=True, slots=True)
class RunFigures:
    pairs: int
    """Ever appended."""
    open_jobs: int
    ties: int
    """Ranked jobs without a pair, because the annotator preferred none."""
    unreadable: int
    """Ranked jobs without a pair, because its verdicts were unreadable."""


@dataclass(frozen=True, slots=True)
class Figures:
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
    runs: dict[str, RunFigures]
    groups: list[GroupFigures]


async def read_figures(store: Store) -> Figures:
    lanes, running, retrying, dead, stats, runs, groups = await store.run(FIGURES)
    queued: dict[str, int] = {}
    wait_s: dict[str, float] = {}
    for priority, count, wait_ms in lanes:
        queued[priority] = queued.get(priority, 0) + count
        wait_s[priority] = max(wait_s.get(priority, 0.0), wait_ms / 1000)
    counts = dict(zip(stats[::2], map(int, stats[1::2]), strict=True))
    return Figures(
        queued=queued,
        wait_s=wait_s,
        running=running,
        retrying=retrying,
        dead_letters=dead,
        leases_lost=counts.pop("leases_lost", 0),
        ended=counts,
        runs={run: RunFigures(*map(int, figures)) for run, *figures in runs},
        groups=[GroupFigures(run, group, *map(int, counts)) for run, group, *counts in groups],
    )
