"""Images, stored once under their SHA-256, as raw bytes.

The register (which images there are, and when each was last named) lives with the jobs; the bytes
lie under keys without the namespace's hash tag. Nothing
counts references: the sweep looks who names an image, at the moment of removing it.
"""

import asyncio
import hashlib

from redis.client import NEVER_DECODE

from service.broker.connection import Connection, milliseconds
from service.broker.errors import ImageGone
from service.broker.scripts import script

SWEEP_EVERY_S = 600.0
SWEEP_PAGE = 500
"""Images that are looked at together."""
REMOVED_AFTER_S = 60
"""Bytes outlive their registration by this, in case somebody stores them again just now."""


@script("images/register.lua")
def _register(ref: str) -> int: ...


@script("images/begin_sweep.lua")
def _begin_sweep(age_ms: int, interval_ms: int) -> int: ...


@script("images/last_named_before.lua")
def _last_named_before(cutoff: int, count: int) -> list[str]: ...


@script("images/touch.lua")
def _touch(refs: str) -> None: ...


@script("images/named_by_jobs.lua")
def _named_by_jobs(state: str, cursor: str) -> tuple[str, list[str]]: ...


@script("images/named_by_pairs.lua")
def _named_by_pairs(run: str, stream: str, start: str) -> tuple[str, list[str]]: ...


@script("images/unregister.lua")
def _unregister(ref: str, cutoff: int) -> int: ...


class Images:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def put(self, content: bytes) -> str:
        """Stores an image, unless it is stored already, and returns its `sha256:<hex>`."""
        ref = "sha256:" + hashlib.sha256(content).hexdigest()
        # The register first: a sweep that is just removing these bytes looks at it once more.
        await self._connection.run(_register, ref)
        await self._connection.command("PERSIST", self._key(ref))
        if not await self._connection.command("EXISTS", self._key(ref)):
            await self._connection.unpipelined("SET", self._key(ref), content)
        return ref

    async def get(self, ref: str) -> bytes:
        """Raises: ImageGone."""
        content = await self._connection.unpipelined("GET", self._key(ref), **{NEVER_DECODE: True})
        if content is None:
            raise ImageGone(ref)
        return content

    async def exists(self, ref: str) -> bool:
        score = await self._connection.command("ZSCORE", self._connection.key("images"), ref)
        return score is not None

    async def sweep(self) -> int:
        """Removes images that were not named for `image_ttl_s`, and that neither an open job, nor a
        dead letter, nor a kept pair (left out or not) names. One sweeper at a time. Returns how
        many."""
        age = milliseconds(self._connection.settings.image_ttl_s)
        cutoff = await self._connection.run(_begin_sweep, age, milliseconds(SWEEP_EVERY_S))
        named: set[str] | None = None
        removed = 0
        while old := await self._connection.run(_last_named_before, cutoff, SWEEP_PAGE):
            if named is None:
                named = await self._named()
            # Their time moves, so that what is kept hides nothing that is not.
            if kept := named.intersection(old):
                await self._connection.run(_touch, " ".join(kept))
            strays = [self._remove(ref, cutoff) for ref in old if ref not in named]
            removed += sum(await asyncio.gather(*strays))
        return removed

    async def _remove(self, ref: str, cutoff: int) -> bool:
        # Whoever named it since has moved its time, and it stays.
        if not await self._connection.run(_unregister, ref, cutoff):
            return False
        await self._connection.command("EXPIRE", self._key(ref), REMOVED_AFTER_S)
        if await self.exists(ref):
            await self._connection.command("PERSIST", self._key(ref))
        return True

    async def _named(self) -> set[str]:
        named: set[str] = set()
        for jobs in ("open", "dead"):
            cursor = "0"
            while True:
                cursor, refs = await self._connection.run(_named_by_jobs, jobs, cursor)
                named.update(ref for line in refs for ref in line.split())
                if cursor == "0":
                    break
        for run in await self._connection.command("SMEMBERS", self._connection.key("runs")):
            for stream in ("log", "filtered"):
                start = "-"
                while start:
                    last, refs = await self._connection.run(_named_by_pairs, run, stream, start)
                    named.update(ref for line in refs for ref in line.split())
                    start = last and f"({last}"
        return named

    def _key(self, ref: str) -> str:
        return self._connection.image_key(ref.removeprefix("sha256:"))
