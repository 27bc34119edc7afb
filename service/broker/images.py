"""Images, stored once under their SHA-256, as raw bytes.

The register (which images there are, and when each was last named) lives with the jobs; the bytes
lie under keys without the namespace's hash tag, so a Cluster spreads them over its shards. Nothing
counts references: the sweep looks who names an image, at the moment of removing it.
"""

import hashlib

from redis.client import NEVER_DECODE

from service.broker.errors import ImageGone
from service.broker.store import Script, Store, milliseconds

SWEEP_EVERY_S = 600.0
REMOVED_AFTER_S = 60
"""Bytes outlive their registration by this, in case somebody stores them again just now."""

REGISTER = Script("redis.call('ZADD', NS .. ':images', now(), ARGV[1])")

UNNAMED_SINCE = Script("""
if not redis.call('SET', NS .. ':images_swept', 1, 'NX', 'PX', ARGV[2]) then return {} end
return redis.call('ZRANGEBYSCORE', NS .. ':images', 0, now() - ARGV[1], 'LIMIT', 0, 1000)
""")

NAMED_BY_JOBS = Script("""
local page, refs = redis.call('ZSCAN', NS .. ':' .. ARGV[1], ARGV[2], 'COUNT', 500), {}
for i = 1, #page[2], 2 do
  refs[#refs + 1] = redis.call('HGET', job_key(page[2][i]), 'images') or ''
end
return {page[1], refs}
""")

NAMED_BY_PAIRS = Script("""
local entries = redis.call('XRANGE', run_key(ARGV[1]) .. ':log', ARGV[2], '+', 'COUNT', 500)
local refs = {}
for i, entry in ipairs(entries) do refs[i] = entry[2][4] end
return {#entries > 0 and entries[#entries][1] or '', refs}
""")

FORGET = Script("""
local score = redis.call('ZSCORE', NS .. ':images', ARGV[1])
if not score or tonumber(score) > now() - ARGV[2] then return 0 end
return redis.call('ZREM', NS .. ':images', ARGV[1])
""")


class Images:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def put(self, content: bytes) -> str:
        """Stores an image, unless it is stored already, and returns its `sha256:<hex>`."""
        ref = "sha256:" + hashlib.sha256(content).hexdigest()
        # The register first: a sweep that is just removing these bytes looks at it once more.
        await self._store.run(REGISTER, ref)
        await self._store.command("PERSIST", self._key(ref))
        if not await self._store.command("EXISTS", self._key(ref)):
            await self._store.alone("SET", self._key(ref), content)
        return ref

    async def get(self, ref: str) -> bytes:
        """Raises: ImageGone."""
        content = await self._store.alone("GET", self._key(ref), **{NEVER_DECODE: True})
        if content is None:
            raise ImageGone(ref)
        return content

    async def exists(self, ref: str) -> bool:
        score = await self._store.command("ZSCORE", self._store.key("images"), ref)
        return score is not None

    async def sweep(self) -> int:
        """Removes images that were not named for `image_ttl_s`, and that neither an open job, nor a
        dead letter, nor a kept pair names. One sweeper at a time. Returns how many."""
        age = milliseconds(self._store.settings.image_ttl_s)
        old = set(await self._store.run(UNNAMED_SINCE, age, milliseconds(SWEEP_EVERY_S)))
        if not old:
            return 0
        removed = 0
        for ref in old - await self._named():
            # Whoever named it since has moved its time, and it stays.
            if await self._store.run(FORGET, ref, age):
                await self._store.command("EXPIRE", self._key(ref), REMOVED_AFTER_S)
                if await self.exists(ref):
                    await self._store.command("PERSIST", self._key(ref))
                removed += 1
        return removed

    async def _named(self) -> set[str]:
        named: set[str] = set()
        for jobs in ("open", "dead"):
            cursor = "0"
            while True:
                cursor, refs = await self._store.run(NAMED_BY_JOBS, jobs, cursor)
                named.update(ref for line in refs for ref in line.split())
                if cursor == "0":
                    break
        for run in await self._store.command("SMEMBERS", self._store.key("runs")):
            last, refs = await self._store.run(NAMED_BY_PAIRS, run, "-")
            while last:
                named.update(ref for line in refs for ref in line.split())
                last, refs = await self._store.run(NAMED_BY_PAIRS, run, f"({last}")
        return named

    def _key(self, ref: str) -> str:
        return f"{self._store.settings.namespace}:image:{ref.removeprefix('sha256:')}"
