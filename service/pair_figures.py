"""A pair's figures: what the filters of a run bound, and what its distributions are of."""

from bisect import bisect_left

from service.schemas import Bounds, Pair, PairFilters
from service.words import words

TOKENS = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0)
LOGPS = (-512.0, -256.0, -128.0, -64.0, -32.0, -16.0, -8.0, -4.0, 0.0)
DIFFERENCES = (-64.0, -16.0, -4.0, -1.0, 0.0, 1.0, 4.0, 16.0, 64.0)
SHARES = (0.0, 0.05, 0.1, 0.2, 0.4, 1.0)

EDGES: dict[str, tuple[float, ...]] = {
    "similarity": (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.99, 1.0),
    "iterations": (1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0),
    "chosen_tokens": TOKENS,
    "rejected_tokens": TOKENS,
    "token_difference": (-256.0, -64.0, -16.0, -4.0, 0.0, 4.0, 16.0, 64.0, 256.0),
    "token_ratio": (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0),
    "chosen_repetition": SHARES,
    "rejected_repetition": SHARES,
    "chosen_logps": LOGPS,
    "rejected_logps": LOGPS,
    "logps_margin": DIFFERENCES,
    "chosen_image_dependence": DIFFERENCES,
    "rejected_image_dependence": DIFFERENCES,
}
"""The figures, and where the bars of their histograms end; one more bar holds what is above."""

REPEATED_WORDS = 4
"""Length of the runs of words that `repetition` counts."""


def pair_figures(pair: Pair) -> dict[str, float]:
    """The figures that the pair has, by name."""
    chosen, rejected = pair.chosen_tokens, pair.rejected_tokens
    figures: dict[str, float | None] = {
        "similarity": pair.similarity,
        "iterations": pair.iterations,
        "chosen_tokens": chosen,
        "rejected_tokens": rejected,
        "chosen_repetition": repetition(pair.chosen[0].text),
        "rejected_repetition": repetition(pair.rejected[0].text),
        "chosen_logps": pair.chosen_logps,
        "rejected_logps": pair.rejected_logps,
        "chosen_image_dependence": pair.chosen_image_dependence,
        "rejected_image_dependence": pair.rejected_image_dependence,
    }
    if chosen and rejected is not None:
        figures |= {"token_difference": rejected - chosen, "token_ratio": rejected / chosen}
    if pair.chosen_logps is not None and pair.rejected_logps is not None:
        figures["logps_margin"] = pair.chosen_logps - pair.rejected_logps
    return {name: value for name, value in figures.items() if value is not None}


def beyond(pair: Pair, filters: PairFilters) -> list[str]:
    """Names of the filters that the pair lies beyond, as `offer_pair.lua` finds them for a run."""
    figures = pair_figures(pair)
    failed: list[str] = []
    for name in PairFilters.model_fields:
        bounds, value = getattr(filters, name), figures.get(name)
        if isinstance(bounds, Bounds) and value is not None:
            least, most = bounds.min, bounds.max
            if (least is not None and value < least) or (most is not None and value > most):
                failed.append(name)
    reasons = {pair.chosen_finish_reason, pair.rejected_finish_reason} - {None}
    if filters.finish_reasons is not None and not reasons <= set(filters.finish_reasons):
        failed.append("finish_reasons")
    return failed


def bucket(name: str, value: float) -> int:
    """Index of the bar that a figure falls into."""
    return bisect_left(EDGES[name], value)


def repetition(text: str) -> float:
    """Share of the text's runs of four words that stood in it before, from 0 (none) to near 1."""
    found = words(text)
    runs = [tuple(found[i : i + REPEATED_WORDS]) for i in range(len(found) - REPEATED_WORDS + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
