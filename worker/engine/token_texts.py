"""The texts of single tokens, beside their log-probabilities.

vLLM 0.32 looks them up itself, and dies of a token that the tokenizer does not know. Published
checkpoints have some: the rows that pad a LLaVA's vocabulary to 32,064.
"""

from typing import Any

from vllm.tokenizers.detokenizer_utils import convert_ids_list_to_tokens
from vllm.v1.engine.async_llm import AsyncLLM


def leave_out_token_texts(llm: AsyncLLM, request_id: str) -> None:
    """Has vLLM state the log-probabilities of a request by token ids alone.

    `request_id`: one that `llm.add_request` has returned from.
    """
    processor = llm.output_processor
    for internal_id in processor.external_req_ids.get(request_id, ()):
        logprobs = processor.request_states[internal_id].logprobs_processor
        assert logprobs is not None  # only pooling requests have none
        logprobs.tokenizer = None


def token_text(tokenizer: Any, token_id: int) -> str:
    """Its text, with the space that it begins with; none for a token that the tokenizer has not."""
    if token_id >= len(tokenizer):
        return ""
    return convert_ids_list_to_tokens(tokenizer, [token_id])[0]
