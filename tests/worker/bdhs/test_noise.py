"""The diffusion schedule against the paper's formula, computed another way."""

import numpy as np
import pytest

from worker.bdhs.noise import MAX_STEPS, alpha_bar, beta, noise_scales

K = np.arange(MAX_STEPS + 1)
BETAS = 1 / (1 + np.exp(-(-6 + 12 * K / 1000))) * (0.5e-2 - 1e-5) + 1e-5
ALPHA_BARS = np.exp(np.cumsum(np.log1p(-BETAS)))


def test_the_schedule_is_the_papers() -> None:
    np.testing.assert_allclose([beta(k) for k in K], BETAS, rtol=1e-12)
    np.testing.assert_allclose([alpha_bar(k) for k in K], ALPHA_BARS, rtol=1e-9)


def test_image_and_noise_keep_the_variance() -> None:
    for steps in (0, 1, 100, 300, 500, 1000):
        image, noise = noise_scales(steps)
        assert image**2 + noise**2 == pytest.approx(1)
    assert noise_scales(500)[0] < noise_scales(300)[0] < noise_scales(100)[0]


@pytest.mark.parametrize("steps", [-1, MAX_STEPS + 1])
def test_the_schedule_ends(steps: int) -> None:
    with pytest.raises(ValueError, match="steps 0 to 1000"):
        alpha_bar(steps)
