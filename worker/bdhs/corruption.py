"""What BDHS does to an image before the policy sees it."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from worker.bdhs.mask import draw_mask


@dataclass(frozen=True, slots=True)
class ImageCorruption:
    """Which of the image's tokens the policy sees, and under which noise."""

    kept: Sequence[int]
    """Ascending indices of the image tokens that are visible; may be empty."""
    noise_steps: int = 0
    """Steps of the diffusion schedule that the pixels have gone through; 0: none."""
    noise_seed: int | None = None
    """Of the noise; given with `noise_steps`."""


def draw_corruption(
    rng: Random, image_tokens: int, *, rho: float, noise_steps: int
) -> ImageCorruption:
    """Which of the image's tokens stay, and which noise: `noise_steps` of it, 0 for none."""
    kept = draw_mask(image_tokens, rho, rng)
    if not noise_steps:
        return ImageCorruption(kept)
    return ImageCorruption(kept, noise_steps=noise_steps, noise_seed=rng.getrandbits(62))
