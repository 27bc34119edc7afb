"""What a test may ask of the engine's process about its vision tower and the positions of what it
makes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from worker.engine import Engine
from worker.plugin.masking.model import MaskingModel
from worker.plugin.masking.mrope import MaskingMRoPE

EXTENSION = "tests.worker.vision_tower.Tower"
"""vLLM's `worker_extension_cls`."""

KEEP_POSITIONS = MaskingMRoPE.get_mrope_input_positions


class Tower:
    """Mixed into vLLM's own worker."""

    model_runner: Any
    rows_at_once: list[int]

    def images_computed(self) -> int:
        """Images that the tower has run for, since the engine started."""
        return self.model_runner.model.feature_cache.computed

    def row_budget(self) -> int:
        """Rows that the tower may make at once."""
        return self.model_runner.model._max_tower_rows

    def watch_rows(self) -> None:
        """From now on it is noted how many rows the tower makes at once."""
        owners = type(self.model_runner.model).__mro__
        [owner, *_] = [c for c in owners if c is not MaskingModel and "embed_multimodal" in vars(c)]
        embed = owner.embed_multimodal
        self.rows_at_once = []

        def watched(model: Any, **batch: Any) -> Any:
            made = embed(model, **batch)
            self.rows_at_once.append(sum(map(len, made)))
            return made

        owner.embed_multimodal = watched

    def watched_rows(self) -> list[int]:
        """How many, each time."""
        return self.rows_at_once

    def keep_positions(self, keep: bool) -> None:
        """Whether what stays of an image keeps its positions (M-RoPE), as it should."""
        if keep:
            MaskingMRoPE.get_mrope_input_positions = KEEP_POSITIONS
        else:
            del MaskingMRoPE.get_mrope_input_positions


async def images_computed(engine: Engine) -> int:
    return (await engine._running().collective_rpc("images_computed"))[0]


async def row_budget(engine: Engine) -> int:
    return (await engine._running().collective_rpc("row_budget"))[0]


async def watch_rows(engine: Engine) -> None:
    await engine._running().collective_rpc("watch_rows")


async def watched_rows(engine: Engine) -> list[int]:
    return (await engine._running().collective_rpc("watched_rows"))[0]


@asynccontextmanager
async def without_kept_positions(engine: Engine) -> AsyncIterator[None]:
    """Takes the plugin's part for M-RoPE away."""
    call = engine._running().collective_rpc
    await call("keep_positions", args=(False,))
    try:
        yield
    finally:
        await call("keep_positions", args=(True,))
