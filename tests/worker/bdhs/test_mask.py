"""Masks against U(0, 1)."""

import math
from random import Random

import pytest

from worker.bdhs.mask import draw_mask


@pytest.mark.parametrize("rho", [0.5, 0.9, 0.99])
def test_each_token_is_kept_with_probability_one_minus_rho(rho: float) -> None:
    tokens, draws = 576, 400
    masks = [draw_mask(tokens, rho, Random(f"{seed}/1")) for seed in range(draws)]
    kept = sum(map(len, masks))
    mean, deviation = tokens * draws * (1 - rho), math.sqrt(tokens * draws * rho * (1 - rho))
    assert abs(kept - mean) < 5 * deviation
    # No place is preferred: chi-squared over the places, 575 degrees of freedom.
    counts = [0] * tokens
    for mask in masks:
        for i in mask:
            counts[i] += 1
    expected = draws * (1 - rho)
    chi2 = sum((c - expected) ** 2 / (expected * rho) for c in counts)
    assert abs(chi2 - tokens) < 6 * math.sqrt(2 * tokens)


def test_the_ends_of_the_scale() -> None:
    assert draw_mask(36, 0.0, Random(1)) == list(range(36))
    assert draw_mask(36, 1.0, Random(1)) == []


def test_few_tokens_often_leave_an_empty_mask() -> None:
    empty = sum(not draw_mask(36, 0.99, Random(seed)) for seed in range(1000))
    assert 0.6 < empty / 1000 < 0.8  # 0.99 ** 36 = 0.70
