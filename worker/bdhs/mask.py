"""Which image tokens the policy may see."""

from random import Random


def draw_mask(image_tokens: int, rho: float, rng: Random) -> list[int]:
    """Ascending indices i with ρ_i ≥ ρ_th, ρ_i ~ U[0, 1); may be empty (paper: BDHS_attn).

    `rho` is ρ_th: 0 keeps all tokens, 1 keeps none.
    """
    return [i for i in range(image_tokens) if rng.random() >= rho]
