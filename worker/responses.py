"""Sampled responses as a job's result has them."""

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


def _drop_look_ahead(response: Response, tokenizer: Any) -> None:
    """Without the token that showed the sentence to have ended, unless it ends it, too."""
    kept = response.token_ids[:-1]
    if not tokenizer.decode(kept).strip().startswith(response.text.strip()):
        return
    response.token_ids = kept
    if response.logprobs is not None:
        del response.logprobs[-1]
    last = response.weight_versions[-1]
    last.end -= 1
    if last.end == last.start:
        del response.weight_versions[-1]


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
