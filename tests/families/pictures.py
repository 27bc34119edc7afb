"""Pictures to show to any family."""

import numpy as np
from PIL import Image


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Noise: no two parts of it are alike."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


PICTURES = [picture(80, 150, 1), picture(56, 56, 2), picture(200, 40, 3)]
