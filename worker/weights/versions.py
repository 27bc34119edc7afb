"""Which weights new work is done on, and which older ones are still in use.

A version is adopted in this order: bring it to a folder of this worker's own and check every byte,
check that the engine would apply it whole, load it, and only then give it to new jobs. What cannot
be applied is refused for good, and the old version serves on.

Of adapters the engine holds several, and a job keeps the one that it began with. Of full weights
it holds one, which changes under the jobs; what they write says which version wrote it. A worker
takes one of the two kinds in its life: adapters are made for the model that it was started with.
"""

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import structlog
from vllm.lora.request import LoRARequest

from service.schemas import WeightsKind, WeightVersion
from service.weight_store import BadWeights
from worker.engine import Engine, EngineDied, LoadFailed
from worker.weights.adapters import check_adapter
from worker.weights.checkpoints import check_checkpoint
from worker.weights.fetching import fetch_within

log = structlog.get_logger()

MAX_ENGINE_DEATHS = 2
"""Engines that may die of loading a version before it is taken for the reason."""


class VersionGone(ValueError):
    """A version that a job names is no longer to be had."""


class WeightVersions:
    """The versions that an engine holds. 0 is the model itself."""

    def __init__(self, engine: Engine, fetch_timeout_s: float = 600.0):
        self.current = 0
        """What new jobs begin with."""
        self.kind: WeightsKind | None = None
        """Of all versions that were adopted; None: none was yet."""
        self._engine = engine
        self._fetch_timeout_s = fetch_timeout_s
        self._folder = Path(tempfile.mkdtemp(prefix="prefstream-weights-"))
        self._in_use: Counter[int] = Counter()
        self._freed = asyncio.Event()
        self._loading = asyncio.Lock()
        self._deaths: Counter[int] = Counter()

    @contextmanager
    def use_current(self) -> Generator[LoRARequest | None]:
        """The adapter of the current version, for as long as one job takes. None: no adapter."""
        lora = self.lora_request(self.current)
        if lora is None:
            yield None
            return
        with self._using(lora.lora_int_id):
            yield lora

    @asynccontextmanager
    async def use_version(
        self, number: int, version: WeightVersion | None
    ) -> AsyncGenerator[LoRARequest | None]:
        """As `use_current`, of a version that need not be the newest; loaded if it must be.

        Args:
            number: the version; 0 is the model itself.
            version: as it was announced, if that is still known.

        Raises:
            VersionGone: with the reason. EngineDied: try again once it lives.
        """
        if number == self.current:
            with self.use_current() as lora:
                yield lora
            return
        if self.kind == "full":
            raise VersionGone(
                f"weights version {number} is no longer loaded: this worker serves full weights, "
                f"of which an engine holds one version, now {self.current}"
            )
        if number == 0:
            yield None
            return
        if number not in self._in_use:
            await self.wait_for_room()
        with self._using(number):
            async with self._loading:
                await self._ensure_loaded(number, version)
            yield LoRARequest(f"v{number}", number, str(self._folder / str(number)))

    async def _ensure_loaded(self, number: int, version: WeightVersion | None) -> None:
        folder = self._folder / str(number)
        if folder.exists():  # another job of the version has loaded it
            return
        if version is None or version.kind != "lora":
            raise VersionGone(f"weights version {number} is not known here (any more)")
        try:
            await self._fetch(version, folder)
            await self._load(version, folder)
        except BadWeights as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise VersionGone(f"weights version {number} is no longer stored: {error}") from error

    @contextmanager
    def _using(self, version: int) -> Generator[None]:
        self._in_use[version] += 1
        try:
            yield
        finally:
            self._in_use[version] -= 1
            if not self._in_use[version]:
                del self._in_use[version]
                self._freed.set()

    def lora_request(self, version: int) -> LoRARequest | None:
        """How a request names a version to the engine."""
        if version == 0 or self.kind == "full":
            return None
        return LoRARequest(f"v{version}", version, str(self._folder / str(version)))

    async def wait_for_room(self) -> None:
        """Waits until one more version fits beside those in use."""
        while self.kind != "full":
            await self._drop_unused()
            if len(self._needed()) < self._engine.max_loras:
                return
            self._freed.clear()
            await self._freed.wait()

    async def adopt(self, version: WeightVersion) -> None:
        """Give a version to all new jobs. Call `wait_for_room` first.

        Raises:
            BadWeights: it cannot be applied whole; the reason. The old version serves on.
            EngineDied: try again once it lives.
        """
        if version.kind not in ("lora", "full"):
            raise BadWeights(f"this release of the worker takes no {version.kind} weights")
        if self.kind not in (None, version.kind):
            raise BadWeights(
                f"this worker serves {self.kind} weights (version {self.current}), and takes no "
                f"{version.kind} weights on top of them; start it anew, with the model that they "
                "are for"
            )
        folder = self._folder / str(version.version)
        try:
            await self._fetch(version, folder)
            await self._load(version, folder)
        except BadWeights:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        previous, self.current, self.kind = self.current, version.version, version.kind
        log.info("adopted", version=self.current, kind=self.kind, instead_of=previous)
        await self._drop_unused()

    async def _fetch(self, version: WeightVersion, folder: Path) -> None:
        """Brings a version to `folder`, checked. Raises: BadWeights."""
        if not await asyncio.to_thread(folder.exists):
            await fetch_within(self._fetch_timeout_s, version, folder)
        await asyncio.to_thread(self._check, version.kind, folder)

    def _check(self, kind: WeightsKind, folder: Path) -> None:
        shapes = self._engine.shapes
        try:
            if kind == "lora":
                check_adapter(folder, shapes, self._engine.max_lora_rank)
            else:
                check_checkpoint(folder, shapes)
        except BadWeights:
            raise
        except Exception as error:  # files can be wrong in more ways than anybody thinks of
            raise BadWeights(f"it cannot be judged: {type(error).__name__}: {error}") from error

    async def _load(self, version: WeightVersion, folder: Path) -> None:
        if not self._engine.alive:
            raise EngineDied("the engine died before it could load it")
        try:
            if version.kind == "full":
                await self._engine.load_weights(folder, version.version)
            else:
                await self._add(LoRARequest(f"v{version.version}", version.version, str(folder)))
        except LoadFailed as error:
            raise BadWeights(f"the engine could not load it: {error}") from error
        except EngineDied as error:
            self._deaths[version.version] += 1
            if self._deaths[version.version] < MAX_ENGINE_DEATHS:
                raise
            raise BadWeights(
                f"the engine died of it, {MAX_ENGINE_DEATHS} times: {error}"
            ) from error

    async def _add(self, lora: LoRARequest) -> None:
        try:
            await self._engine.add_lora(lora)
        except EngineDied:
            raise
        except Exception as error:  # vLLM raises what it likes, and lives
            raise BadWeights(f"the engine refused it: {error}") from error

    async def reload(self) -> None:
        """Give the current adapter to an engine that was started anew. Full weights it brings back
        by itself."""
        lora = self.lora_request(self.current)
        if lora is not None:
            await self._add(lora)

    def _needed(self) -> set[int]:
        """Versions that are needed: adapters among them have a slot in the engine."""
        return {*self._in_use, self.current} - {0}

    async def _drop_unused(self) -> None:
        """Frees the slots and the disk of versions that no job uses any more."""
        for folder in self._folder.iterdir():
            if folder.name.isdigit() and int(folder.name) not in self._needed():
                if self.kind == "lora":
                    await self._engine.remove_lora(int(folder.name))
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
