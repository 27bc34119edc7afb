"""Tokens that the model has and its tokenizer has not.

Published checkpoints have some: the rows that pad a LLaVA's vocabulary to 32,064. vLLM 0.32 states
the text of a token beside its log-probability, and where a SentencePiece tokenizer has none, all
requests end.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any


def give_unknown_tokens_text(tokenizer: Any) -> None:
    """Has an engine's tokenizer name tokens that it does not know by an empty text, not by None.

    `tokenizer`: transformers', as the engine holds it; it is changed.
    """
    # The class's own: an engine that is started again holds the same tokenizer.
    convert = partial(type(tokenizer).convert_ids_to_tokens, tokenizer)

    def convert_ids_to_tokens(ids: int | Sequence[int], *args: Any, **more: Any) -> Any:
        tokens = convert(ids, *args, **more)
        return [token or "" for token in tokens] if isinstance(tokens, list) else tokens

    tokenizer.convert_ids_to_tokens = convert_ids_to_tokens
