"""What a model wrote, for comparing two of them."""

from dataclasses import dataclass


@dataclass
class Written:
    """Tokens, and the log-probability of each."""

    token_ids: list[int]
    logprobs: list[float]
