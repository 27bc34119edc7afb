"""The vision tower runs once an image, however many masks it is seen under."""

import asyncio

import pytest
import torch

from tests.worker.oracle import generate, image_tokens, random_image
from tests.worker.vision_tower import images_computed
from worker.bdhs.corruption import ImageCorruption
from worker.engine import Engine
from worker.plugin.feature_cache import GIB, FeatureCache

CPU = torch.device("cpu")


class Tower:
    """Embeds image number i as 4 rows of the number i."""

    def __init__(self) -> None:
        self.ran: list[list[int]] = []

    def __call__(self, places: list[int]) -> list[torch.Tensor]:
        self.ran.append(places)
        return [torch.full((4, 2), float(place)) for place in places]


def mask(*kept: int) -> torch.Tensor:
    return torch.tensor([i in kept for i in range(4)])


def test_what_is_known_is_not_computed_again() -> None:
    features, tower = FeatureCache(1.0), Tower()
    first = features.embed([b"a", b"b", b"a"], [mask(0), mask(1, 2), mask(0, 3)], tower, CPU)
    assert tower.ran == [[0, 1]]
    assert [rows.shape for rows in first] == [(1, 2), (2, 2), (2, 2)]
    again = features.embed([b"c", b"b", b"a"], [mask(0), mask(1), mask(3)], tower, CPU)
    assert tower.ran == [[0, 1], [0]]
    assert [rows[0, 0].item() for rows in again] == [0.0, 1.0, 0.0]
    assert features.computed == 3


def test_an_image_without_a_key_is_never_kept() -> None:
    features, tower = FeatureCache(1.0), Tower()
    for _ in range(2):
        features.embed([None, None], [mask(0), mask(1)], tower, CPU)
    assert tower.ran == [[0, 1], [0, 1]]


def test_the_memory_is_bounded_and_the_oldest_goes_first() -> None:
    two_images = 2 * 4 * 2 * 4
    features, tower = FeatureCache(two_images / GIB), Tower()
    for key in (b"a", b"b", b"a", b"c", b"a", b"b"):
        features.embed([key], [mask(0)], tower, CPU)
    assert len(tower.ran) == 4  # a, b, c, and b again, which had gone for c


@pytest.mark.parametrize("gib", [0.0, 1 / GIB])
def test_what_does_not_fit_is_not_kept(gib: float) -> None:
    features, tower = FeatureCache(gib), Tower()
    for _ in range(2):
        assert features.embed([b"a"], [mask(0)], tower, CPU)[0].shape == (1, 2)
    assert len(tower.ran) == 2


def test_nothing_is_known_after_other_weights() -> None:
    features, tower = FeatureCache(1.0), Tower()
    features.embed([b"a"], [mask(0)], tower, CPU)
    features.clear()
    features.embed([b"a"], [mask(0)], tower, CPU)
    assert len(tower.ran) == 2


async def test_the_engine_runs_its_tower_once_for_all_masks_of_an_image(engine: Engine) -> None:
    before = await images_computed(engine)
    for image in (random_image(80, 150, 31), random_image(56, 56, 32)):
        for masks in ([[0], [1, 2]], [[3], list(range(9))]):
            await asyncio.gather(
                *(generate(engine, "What?", image, ImageCorruption(kept)) for kept in masks)
            )
        await generate(engine, "What?", image, None)
    assert await images_computed(engine) == before + 2


async def test_noise_is_another_image_every_time(engine: Engine) -> None:
    image = random_image(80, 150, 33)
    before = await images_computed(engine)
    for seed in (1, 2, 1):
        corruption = ImageCorruption(
            range(await image_tokens(engine, image)), noise_steps=300, noise_seed=seed
        )
        await generate(engine, "What?", image, corruption)
    # The third is the first again, which vLLM itself remembers.
    assert await images_computed(engine) == before + 2
