"""What the broker counts, for /metrics: derived from the sets and lanes at the moment of asking."""

from dataclasses import dataclass

from service.broker.store import Script, Store

FIGURES = Script("""
local queued, running = {}, 0
for _, lane in ipairs(LANES) do
  local length, pending = redis.call('XLEN', lane_key(lane)), 0
  local reply = redis.pcall('XPENDING', lane_key(lane), GROUP)
  if not reply.err then pending = reply[1] end
  queued[#queued + 1] = {string.match(lane, '^%a+'), length - pending}
  running = running + pending
end
local runs = {}
for _, run in ipairs(redis.call('SMEMBERS', NS .. ':runs')) do
  runs[#runs + 1] = {run, redis.call('HGET', run_key(run), 'pairs'),
    redis.call('ZCARD', run_key(run) .. ':open')}
end
return {queued, running, redis.call('ZCARD', NS .. ':retries'), redis.call('ZCARD', NS .. ':dead'),
  redis.call('HGETALL', NS .. ':stats'), runs}
""")


@dataclass(frozen=True, slots=True)
class Figures:
    queued: dict[str, int]
    """By priority."""
    running: int
    retrying: int
    dead_letters: int
    ended: dict[str, int]
    """Jobs ever ended, by status."""
    runs: dict[str, tuple[int, int]]
    """Pairs ever appended and jobs open, by run."""


async def read_figures(store: Store) -> Figures:
    lanes, running, retrying, dead, stats, runs = await store.run(FIGURES)
    queued: dict[str, int] = {}
    for priority, count in lanes:
        queued[priority] = queued.get(priority, 0) + count
    return Figures(
        queued=queued,
        running=running,
        retrying=retrying,
        dead_letters=dead,
        ended=dict(zip(stats[::2], map(int, stats[1::2]), strict=True)),
        runs={run: (int(pairs), open_jobs) for run, pairs, open_jobs in runs},
    )
