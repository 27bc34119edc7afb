"""The diffusion schedule of BDHS_noise (paper; as POVID uses it).

β_k = σ(−6 + 12k/1000) · (0.5·10⁻² − 10⁻⁵) + 10⁻⁵ for k in 0…1000, α_k = 1 − β_k,
ᾱ_N = ∏_{k≤N} α_k. The image after N steps, done at once, is √ᾱ_N · x + √(1 − ᾱ_N) · ε with
ε ~ N(0, 1), on the processed (normalised) pixel values.
"""

import math
from functools import cache

MAX_STEPS = 1000


def beta(step: int) -> float:
    """β_k, the variance that step k adds."""
    low, high = 1e-5, 0.5e-2
    return (high - low) / (1 + math.exp(6 - 12 * step / MAX_STEPS)) + low


@cache
def alpha_bar(steps: int) -> float:
    """ᾱ_N: how much of the image's variance is left after N steps."""
    if not 0 <= steps <= MAX_STEPS:
        raise ValueError(f"the schedule has steps 0 to {MAX_STEPS}, not {steps}")
    return math.prod(1 - beta(k) for k in range(steps + 1))


def noise_scales(steps: int) -> tuple[float, float]:
    """What the image and the noise are multiplied with: √ᾱ_N and √(1 − ᾱ_N)."""
    left = alpha_bar(steps)
    return math.sqrt(left), math.sqrt(1 - left)
