"""Which weights new work is done on, and which older ones are still in use.

A version is adopted in this order: copy it to this worker's own disk and check every byte, check
that the engine would apply it whole, load it, and only then give it to new jobs. A job keeps the
version that it began with. What cannot be applied is refused for good, and the old version serves
on.
"""

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import structlog
from vllm.lora.request import LoRARequest

from service.schemas import WeightVersion
from service.weightstore import BadWeights, fetch
from worker.adapter import check_adapter
from worker.engine import Engine, EngineDied

log = structlog.get_logger()


class Versions:
    """The versions that an engine holds. 0 is the model itself, which takes no slot."""

    def __init__(self, engine: Engine):
        self.current = 0
        """What new jobs begin with."""
        self._engine = engine
        self._folder = Path(tempfile.mkdtemp(prefix="prefstream-weights-"))
        self._in_use: Counter[int] = Counter()
        self._freed = asyncio.Event()

    @contextmanager
    def use(self) -> Generator[int]:
        """The current version, for as long as one job takes."""
        version = self.current
        self._in_use[version] += 1
        try:
            yield version
        finally:
            self._in_use[version] -= 1
            if not self._in_use[version]:
                del self._in_use[version]
                self._freed.set()

    def lora(self, version: int) -> LoRARequest | None:
        """How a request names a version to the engine."""
        if version == 0:
            return None
        return LoRARequest(f"v{version}", version, str(self._folder / str(version)))

    async def has_room(self) -> None:
        """Waits until one more version fits beside those in use."""
        while True:
            await self._drop_unused()
            if len(self._held()) < self._engine.lora_slots:
                return
            self._freed.clear()
            await self._freed.wait()

    async def adopt(self, version: WeightVersion) -> None:
        """Give a version to all new jobs. Call `has_room` first.

        Raises:
            BadWeights: it cannot be applied whole; the reason. Nothing has changed.
            EngineDied: try again once it lives.
        """
        if version.kind != "lora":
            raise BadWeights(f"this worker takes LoRA adapters, not {version.kind} weights")
        folder = self._folder / str(version.version)
        if not folder.exists():
            try:
                await asyncio.to_thread(fetch, version, folder)
            except OSError as error:
                raise BadWeights(f"{version.location} cannot be read: {error}") from error
        try:
            await asyncio.to_thread(
                check_adapter, folder, self._engine.text_config, self._engine.max_lora_rank
            )
            await self._load(version.version)
        except BadWeights:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        previous, self.current = self.current, version.version
        log.info("adopted", version=self.current, instead_of=previous)
        await self._drop_unused()

    async def reload(self) -> None:
        """Give the current version to an engine that was started anew."""
        if self.current:
            await self._load(self.current)

    async def _load(self, version: int) -> None:
        lora = self.lora(version)
        assert lora is not None
        try:
            await self._engine.add_lora(lora)
        except EngineDied:
            raise
        except Exception as error:  # vLLM raises what it likes, and lives
            raise BadWeights(f"the engine refused it: {error}") from error

    def _held(self) -> set[int]:
        """Versions that have a slot in the engine."""
        return {*self._in_use, self.current} - {0}

    async def _drop_unused(self) -> None:
        """Frees the slots and the disk of versions that no job uses any more."""
        for folder in self._folder.iterdir():
            if folder.name.isdigit() and int(folder.name) not in self._held():
                await self._engine.remove_lora(int(folder.name))
                shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
