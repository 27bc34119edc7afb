"""Which weights new work is done on, and which older ones are still in use.

A version is adopted in this order: bring it to a folder of this worker's own and check every byte,
check that the engine would apply it whole, load it, and only then give it to new jobs. What cannot
be applied is refused for good, and the old version serves on.

Of adapters the engine holds several, and a job keeps the one that it began with. Of full weights
it holds one, which changes under the jobs; what they write says which version wrote it. A worker
takes one of the two kinds in its life: adapters are made for the model that it was started with.

An adapter that a request names must be in the engine: a missing one ends vLLM's process. So what
the engine holds changes under one lock, a job counts as a user before that is released, and what
has users is not dropped. Each fetch has a folder of its own, which belongs to nobody else.
"""

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from weakref import WeakValueDictionary

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
        self._fetches = count()
        self._held: dict[int, Path] = {}
        """Versions that the engine holds, with their folders."""
        self._changing = asyncio.Lock()
        """What the engine holds."""
        self._one_by_one: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        """By version: it is fetched for one at a time."""
        self._in_use: Counter[int] = Counter()
        """Versions that jobs are done on."""
        self._freed = asyncio.Event()
        self._deaths: Counter[int] = Counter()

    # --- for jobs ---

    @contextmanager
    def use_current(self) -> Generator[LoRARequest | None]:
        """The adapter of the current version, for as long as one job takes. None: no adapter."""
        lora = self.lora_request(self.current)
        if lora is None:
            yield None
            return
        self._in_use[lora.lora_int_id] += 1
        with self._freeing(lora.lora_int_id):
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
        if number == 0 and self.kind != "full":
            yield None
            return
        await self._begin_use(number, version)
        with self._freeing(number):
            yield self.lora_request(number)

    async def _begin_use(self, number: int, version: WeightVersion | None) -> None:
        """Counts as a user of the version once the engine holds it."""
        async with self._one_by_one.setdefault(number, asyncio.Lock()):
            async with self._changing:  # behind an adoption that waits for room
                self._check_is_adapter(number)
                if number in self._held:
                    self._in_use[number] += 1
                    return
            if version is None or version.kind != "lora":
                raise VersionGone(f"weights version {number} is not known here (any more)")
            try:
                folder = await self._fetch(version)
                async with self._changing, self._removed_unless_held(folder):
                    self._check_is_adapter(number)
                    await self._make_room()
                    await self._load(version, folder)
                    self._held[number] = folder
                    self._in_use[number] += 1
            except BadWeights as error:
                raise VersionGone(
                    f"weights version {number} is no longer stored: {error}"
                ) from error

    def _check_is_adapter(self, number: int) -> None:
        if self.kind == "full":
            raise VersionGone(
                f"weights version {number} is no longer loaded: this worker serves full weights, "
                f"of which an engine holds one version, now {self.current}"
            )

    @contextmanager
    def _freeing(self, version: int) -> Generator[None]:
        try:
            yield
        finally:
            self._in_use[version] -= 1
            if not self._in_use[version]:
                del self._in_use[version]
                self._freed.set()

    def lora_request(self, version: int) -> LoRARequest | None:
        """How a request names a version that the engine holds. None: no adapter."""
        if version == 0 or self.kind == "full":
            return None
        return LoRARequest(f"v{version}", version, str(self._held[version]))

    # --- for the worker ---

    async def wait_for_room(self) -> None:
        """Waits until one more version fits beside those in use."""
        async with self._changing:
            await self._make_room()

    async def adopt(self, version: WeightVersion) -> None:
        """Give a version to all new jobs, once it fits beside those in use.

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
        number = version.version
        async with self._one_by_one.setdefault(number, asyncio.Lock()):
            if number not in self._held:  # by a job that named it
                folder = await self._fetch(version)
                async with self._changing, self._removed_unless_held(folder):
                    if version.kind == "full":
                        await self._wait_for_adapters()
                    await self._make_room()
                    await self._load(version, folder)
                    self._held[number] = folder
                    self._make_current(number, version.kind)
            else:
                self._make_current(number, version.kind)
        async with self._changing:
            await self._drop_unused()

    async def adopt_base(self) -> None:
        """Give new jobs the model itself. Raises: as `adopt`."""
        async with self._changing:
            if self.kind == "full":
                try:
                    await self._engine.load_weights(Path(self._engine.model), 0)
                except LoadFailed as error:
                    raise BadWeights(f"the engine could not load its model: {error}") from error
            self._make_current(0, self.kind)
            await self._drop_unused()

    def _make_current(self, number: int, kind: WeightsKind | None) -> None:
        previous, self.current, self.kind = self.current, number, kind
        log.info("adopted", version=number, kind=kind, instead_of=previous)

    async def reload(self) -> None:
        """Give its adapters to an engine that was started anew. Full weights it brings back by
        itself.

        Raises: EngineDied, BadWeights.
        """
        async with self._changing:
            if self.kind == "full":
                return
            await self._drop_unused()
            for number, folder in self._held.items():
                await self._add(LoRARequest(f"v{number}", number, str(folder)))

    # --- what the engine holds; under `_changing` ---

    async def _make_room(self) -> None:
        while self.kind != "full":
            self._freed.clear()
            await self._drop_unused()
            if len(self._held) < self._engine.max_loras:
                return
            await self._freed.wait()

    async def _wait_for_adapters(self) -> None:
        """Full weights take all adapters out of the engine."""
        while self.kind != "full" and self._in_use:
            self._freed.clear()
            await self._freed.wait()

    async def _drop_unused(self) -> None:
        """Frees the slots and the disk of versions that no job uses any more."""
        for number in self._held.keys() - {*self._in_use, self.current}:
            folder = self._held.pop(number)  # from now on nobody can begin to use it
            if self.kind != "full":
                await self._engine.remove_lora(number)
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

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

    @asynccontextmanager
    async def _removed_unless_held(self, folder: Path) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            if folder not in self._held.values():
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    # --- files ---

    async def _fetch(self, version: WeightVersion) -> Path:
        """Brings a version to a folder of its own, checked. Raises: BadWeights."""
        folder = self._folder / f"{version.version}-{next(self._fetches)}"
        try:
            await fetch_within(self._fetch_timeout_s, version, folder)
            await asyncio.to_thread(self._check, version.kind, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder

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

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
