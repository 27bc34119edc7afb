"""Which workers live. Each says so every few seconds; silence removes it."""

from service.broker.store import Script, Store, milliseconds
from service.schemas import WorkerInfo

BEAT = Script("""
local id, info, ttl = unpack(ARGV)
local time = now()
local before = redis.call('GET', NS .. ':worker:' .. id)
if not before or
    cjson.decode(before).weight_version ~= cjson.decode(info).weight_version then
  ring('weights')
end
redis.call('ZADD', NS .. ':workers', time, id)
redis.call('SET', NS .. ':worker:' .. id, info, 'PX', ttl)
redis.call('ZREMRANGEBYSCORE', NS .. ':workers', 0, time - ttl)
""")

ALL = Script("""
local infos = {}
for _, id in ipairs(redis.call('ZRANGE', NS .. ':workers', 0, -1)) do
  local info = redis.call('GET', NS .. ':worker:' .. id)
  if info then infos[#infos + 1] = info end
end
return infos
""")

LEAVE = Script("""
redis.call('ZREM', NS .. ':workers', ARGV[1])
redis.call('UNLINK', NS .. ':worker:' .. ARGV[1])
""")


class Workers:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def beat(self, info: WorkerInfo) -> None:
        ttl = milliseconds(self._store.settings.worker_ttl_s)
        await self._store.run(BEAT, info.id, info.model_dump_json(), ttl)

    async def leave(self, worker_id: str) -> None:
        """A worker that stops in order says so."""
        await self._store.run(LEAVE, worker_id)

    async def all(self) -> list[WorkerInfo]:
        infos = await self._store.run(ALL)
        return sorted((WorkerInfo.model_validate_json(i) for i in infos), key=lambda w: w.id)
