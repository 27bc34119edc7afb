"""Sampled responses as a job's result has them."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.outputs import CompletionOutput

from service.schemas import Response, TokenLogprob
from worker.bdhs import sentences
from worker.bdhs.policy import SentenceEnd
from worker.engine import weight_spans


def sentence_end_after(answer_start: str) -> SentenceEnd:
    """Where the first sentence ends of what goes on from there."""
    places = sentences.split(answer_start)
    prefix = answer_start[places[-1].start : places[-1].end] if places else ""
    return partial(sentences.sentence_end, prefix)


def response_of(
    written: CompletionOutput,
    lora: LoRARequest | None,
    asked_logprobs: int | None,
    sentence_end: SentenceEnd | None,
    tokenizer: Any,
) -> Response:
    """What the engine wrote; with `sentence_end`, up to there."""
    response = Response(
        text=written.text,
        finish_reason=str(written.finish_reason),
        token_ids=list(written.token_ids),
        logprobs=_logprobs(written, asked_logprobs),
        weight_versions=weight_spans(written, lora),
    )
    end = sentence_end(response.text) if sentence_end else None
    if end is not None:
        response.text, response.finish_reason = response.text[:end], "sentence"
        _drop_look_ahead(response, tokenizer)
    return response


def look_ahead(text: str, token_ids: Sequence[int], tokenizer: Any) -> int:
    """How many of the last tokens hold nothing of the text: they showed its sentence to have ended.

    One that ends the sentence, too, is none of them.
    """
    count = 0
    while count < len(token_ids):
        kept = tokenizer.decode(token_ids[: len(token_ids) - count - 1], skip_special_tokens=True)
        if not kept.strip().startswith(text.strip()):
            break
        count += 1
    return count


def _drop_look_ahead(response: Response, tokenizer: Any) -> None:
    kept = len(response.token_ids) - look_ahead(response.text, response.token_ids, tokenizer)
    del response.token_ids[kept:]
    if response.logprobs is not None:
        del response.logprobs[kept:]
    for span in response.weight_versions:
        span.end = min(span.end, kept)
    response.weight_versions = [s for s in response.weight_versions if s.start < s.end]


def _logprobs(written: CompletionOutput, asked: int | None) -> list[list[TokenLogprob]] | None:
    if asked is None or written.logprobs is None:
        return None
    return [
        sorted(
            (
                TokenLogprob(token_id=i, token=lp.decoded_token or "", logprob=lp.logprob)
                for i, lp in alternatives.items()
            ),
            key=lambda entry: (entry.token_id != token, -entry.logprob),
        )
        for token, alternatives in zip(written.token_ids, written.logprobs, strict=True)
        if alternatives is not None
    ]
