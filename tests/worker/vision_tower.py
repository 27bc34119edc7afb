"""What a test may ask of the engine's process about its vision tower."""

from typing import Any

from worker.engine import Engine

EXTENSION = "tests.worker.vision_tower.Tower"
"""vLLM's `worker_extension_cls`."""


class Tower:
    """Mixed into vLLM's own worker."""

    model_runner: Any

    def images_computed(self) -> int:
        """Images that the tower has run for, since the engine started."""
        return self.model_runner.model.feature_cache.computed


async def images_computed(engine: Engine) -> int:
    return (await engine._running().collective_rpc("images_computed"))[0]
