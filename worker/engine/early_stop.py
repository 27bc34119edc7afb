"""Ends a request early: a check of its text after every token.

vLLM ends a request at a string, but where a sentence ends is more than a string. So this sits where
vLLM looks for its strings: in the detokenizer. No output but the last one has to be streamed.
"""

from collections.abc import Callable

from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.detokenizer import IncrementalDetokenizer

StopCheck = Callable[[str], bool]
"""Given the text so far after each token: whether the request ends with it. It then finishes as at
a stop string, and what the engine computes until it hears of it is dropped."""


def never_stop(_: str) -> bool:
    """The check that ends nothing."""
    return False


def add_stop_check(llm: AsyncLLM, request_id: str, check: StopCheck) -> None:
    """Checks the request from now on, each of its `n` answers for itself.

    `request_id`: one that `llm.add_request` has returned from.
    """
    processor = llm.output_processor
    for internal_id in processor.external_req_ids.get(request_id, ()):
        state = processor.request_states[internal_id]
        assert state.detokenizer is not None  # only pooling requests have none
        state.detokenizer = StopCheckDetokenizer(state.detokenizer, check)


class StopCheckDetokenizer(IncrementalDetokenizer):
    """vLLM's detokenizer of a request, with the check after every token."""

    def __init__(self, detokenizer: IncrementalDetokenizer, check: StopCheck):
        super().__init__()
        self._detokenizer = detokenizer
        self._check = check

    @property
    def output_token_ids(self) -> list[int]:
        return self._detokenizer.output_token_ids

    def num_output_tokens(self) -> int:
        return self._detokenizer.num_output_tokens()

    def get_next_output_text(self, finished: bool, delta: bool) -> str:
        return self._detokenizer.get_next_output_text(finished, delta)

    def update(self, new_token_ids: list[int], stop_terminated: bool) -> str | None:
        """The reason to stop; vLLM drops the tokens after the one at which it arose."""
        last = len(new_token_ids) - 1
        for place, token in enumerate(new_token_ids):
            stop = self._detokenizer.update([token], stop_terminated and place == last)
            if self._check(self._detokenizer.get_next_output_text(True, False)):
                stop = stop or "stop_check"
            if stop:
                return stop
        return None
