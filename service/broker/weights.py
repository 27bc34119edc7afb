"""Versions of the policy: those announced, and what workers made of them.

Only the newest counts; what a slow worker has not adopted by then, it skips. Older ones are
remembered for jobs that name one, to make a response again.
"""

import time
from datetime import UTC, datetime

from service.broker.errors import VersionNotNewer
from service.broker.notifications import Bell, ring_within
from service.broker.store import Script, Store
from service.broker.workers import ALL
from service.schemas import Refusal, WeightVersion, WorkerInfo
from service.schemas import Weights as State

REMEMBERED = 100
"""Versions older than this many before the newest are forgotten, and what was refused of them."""

ANNOUNCE = Script("""
local version, announced, remembered = ARGV[1], ARGV[2], ARGV[3]
local newest = redis.call('HMGET', NS .. ':weights', 'newest', 'announced')
if newest[1] and tonumber(version) <= tonumber(newest[1]) then
  return newest[2] == announced and 0 or tonumber(newest[1])  -- 0: this very call again
end
redis.call('HSET', NS .. ':weights', 'newest', version, 'announced', announced)
redis.call('HSET', NS .. ':weights:known', version, announced)
for _, kept in ipairs({':weights:refused', ':weights:known'}) do
  for _, key in ipairs(redis.call('HKEYS', NS .. kept)) do
    if tonumber(string.match(key, '^%d+')) < version - remembered then
      redis.call('HDEL', NS .. kept, key)
    end
  end
end
ring('weights')
for _, run in ipairs(redis.call('SMEMBERS', NS .. ':runs')) do ring('run:' .. run) end
return 0
""")

REFUSE = Script("""
redis.call('HSET', NS .. ':weights:refused', ARGV[1], ARGV[2])
ring('weights')
""")


class Weights:
    def __init__(self, store: Store, bell: Bell) -> None:
        self._store = store
        self._bell = bell

    async def announce(self, announced: WeightVersion) -> None:
        """Makes a version the newest. Raises: VersionNotNewer. Saying it twice is fine."""
        newest = await self._store.run(
            ANNOUNCE, announced.version, announced.model_dump_json(), REMEMBERED
        )
        if newest:
            raise VersionNotNewer(announced.version, newest)

    async def newest(self) -> WeightVersion | None:
        text = await self._store.command("HGET", self._store.key("weights"), "announced")
        return WeightVersion.model_validate_json(text) if text else None

    async def known(self, version: int) -> WeightVersion | None:
        """A version as it was announced; None: never, or long ago. Its files may be gone."""
        text = await self._store.command("HGET", self._store.key("weights", "known"), str(version))
        return WeightVersion.model_validate_json(text) if text else None

    async def newer(self, version: int, timeout_s: float) -> WeightVersion | None:
        """The newest version as soon as it is above `version`; None: not within the time."""
        end = time.monotonic() + timeout_s
        async with self._bell.listen("weights") as rung:
            while True:
                newest = await self.newest()
                if newest is not None and newest.version > version:
                    return newest
                if not await ring_within(rung, end - time.monotonic()):
                    return None

    async def refuse(self, worker_id: str, version: int, reason: str) -> None:
        """A worker says that it will not serve a version, and why."""
        refusal = Refusal(
            worker_id=worker_id, version=version, reason=reason, refused_at=datetime.now(UTC)
        )
        await self._store.run(REFUSE, f"{version} {worker_id}", refusal.model_dump_json())

    async def state(self) -> State:
        refused = await self._store.command("HVALS", self._store.key("weights", "refused"))
        refusals = [Refusal.model_validate_json(text) for text in refused]
        workers = [WorkerInfo.model_validate_json(text) for text in await self._store.run(ALL)]
        return State(
            newest=await self.newest(),
            workers=sorted(workers, key=lambda w: w.id),
            refused=sorted(refusals, key=lambda r: (r.version, r.worker_id)),
        )

    async def settled(self, version: int, timeout_s: float) -> State | None:
        """The state once every live worker serves this version or a newer one, or has refused it.

        None: not within the time. With no worker alive there is nobody to wait for.
        """
        end = time.monotonic() + timeout_s
        async with self._bell.listen("weights") as rung:
            while True:
                state = await self.state()
                refused = {r.worker_id for r in state.refused if r.version == version}
                if all(w.weight_version >= version or w.id in refused for w in state.workers):
                    return state
                left = min(end - time.monotonic(), self._store.settings.worker_ttl_s)
                if left <= 0:
                    return None
                await ring_within(rung, left)  # a worker that dies does not ring: look again
