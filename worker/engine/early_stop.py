"""A look at a request's text after every token, with the power to end it there.

vLLM ends a request at a string, but where a sentence ends is more than a string. So this sits where
vLLM looks for its strings: in the detokenizer. Who watches needs no output but the last.
"""

from collections.abc import Callable

from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.detokenizer import IncrementalDetokenizer

Watcher = Callable[[str], bool]
"""Given the text so far after each token: whether the request ends with it. It then finishes as at
a stop string, and what the engine computes until it hears of it is dropped."""


def unwatched(_: str) -> bool:
    return False


def watch(llm: AsyncLLM, request_id: str, watcher: Watcher) -> None:
    """From now on. `request_id` is one that `llm.add_request` has returned from; each of its `n`
    answers is watched for itself."""
    processor = llm.output_processor
    for internal_id in processor.external_req_ids.get(request_id, ()):
        state = processor.request_states[internal_id]
        assert state.detokenizer is not None  # only pooling requests have none
        state.detokenizer = _Watched(state.detokenizer, watcher)


class _Watched(IncrementalDetokenizer):
    def __init__(self, within: IncrementalDetokenizer, watcher: Watcher):
        super().__init__()
        self._within = within
        self._watcher = watcher

    @property
    def output_token_ids(self) -> list[int]:
        return self._within.output_token_ids

    def num_output_tokens(self) -> int:
        return self._within.num_output_tokens()

    def get_next_output_text(self, finished: bool, delta: bool) -> str:
        return self._within.get_next_output_text(finished, delta)

    def update(self, new_token_ids: list[int], stop_terminated: bool) -> str | None:
        """The reason to stop; vLLM drops the tokens after the one at which it arose."""
        last = len(new_token_ids) - 1
        for place, token in enumerate(new_token_ids):
            stop = self._within.update([token], stop_terminated and place == last)
            if self._watcher(self._within.get_next_output_text(True, False)):
                stop = stop or "watcher"
            if stop:
                return stop
        return None
