"""Images, stored once under their SHA-256, as raw bytes.

The register (which images there are, and when each was last named) lives with the jobs; the bytes
lie under keys without the namespace's hash tag, so a Cluster spreads them over its shards.
"""

import hashlib

from redis.client import NEVER_DECODE

from service.broker.errors import ImageGone
from service.broker.store import Script, Store

REGISTER = Script("redis.call('ZADD', NS .. ':images', now(), ARGV[1])")


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
            await self._store.command("SET", self._key(ref), content)
        return ref

    async def get(self, ref: str) -> bytes:
        """Raises: ImageGone."""
        content = await self._store.command("GET", self._key(ref), **{NEVER_DECODE: True})
        if content is None:
            raise ImageGone(ref)
        return content

    async def exists(self, ref: str) -> bool:
        registered = await self._store.command("ZSCORE", self._store.key("images"), ref)
        return registered is not None

    def _key(self, ref: str) -> str:
        return f"{self._store.settings.namespace}:image:{ref.removeprefix('sha256:')}"
