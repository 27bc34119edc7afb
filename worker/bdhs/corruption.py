"""What BDHS does to an image before the policy sees it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageCorruption:
    """Which of the image's tokens the policy sees, and under which noise."""

    kept: Sequence[int]
    """Ascending indices of the image tokens that are visible; may be empty."""
    noise_steps: int = 0
    """Steps of the diffusion schedule that the pixels have gone through; 0: none."""
    noise_seed: int | None = None
    """Of the noise; given with `noise_steps`."""
