"""Pairs of what the policy wrote: both sides as text, and as the tokens that are trained on."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from vllm.outputs import CompletionOutput

from service.broker import Claim
from service.rendering import Prompt
from service.schemas import (
    BdhsRequest,
    InputDigest,
    Pair,
    SampleRequest,
    SampleResult,
    Span,
    assistant_turn,
)
from worker.bdhs.algorithm import RejectedResponse

LOGPROB_DIGITS = 6
"""Decimals of a log-probability in a pair; float32 has no more at the size of most."""


def ranked_pairs(
    claim: Claim,
    request: SampleRequest,
    result: SampleResult,
    written: Sequence[CompletionOutput],
    tokenizer: Any,
    digest: InputDigest,
) -> list[Pair]:
    """What the annotation came to: one pair or none. `written`: the responses, as vLLM gave them,
    with the log-probability of each token."""
    annotation = result.annotation
    if annotation is None or annotation.chosen is None or annotation.rejected is None:
        return []
    sides: dict[str, Any] = {}
    for side, index in (("chosen", annotation.chosen), ("rejected", annotation.rejected)):
        token_ids, logprobs = _kept_tokens(written[index], tokenizer)
        sides |= {
            side: [assistant_turn(written[index].text.strip())],
            f"{side}_version": result.responses[index].oldest_version,
            f"{side}_token_ids": token_ids,
            f"{side}_tokens": len(token_ids),
            f"{side}_logprobs": logprobs,
            f"{side}_finish_reason": str(written[index].finish_reason),
        }
    text = sides["rejected"][0].text
    pair = Pair(
        prompt=request.conversation,
        images=request.images,
        pair_id=claim.job_id,
        run=request.run,
        method="online",
        rejected_spans=[Span(start=0, end=len(text))],
        similarity=None,
        iterations=None,
        seed=result.seed,
        settings=request.settings,
        input_digest=digest,
        created_at=datetime.now(UTC),
        metadata=request.metadata,
        **sides,
    )
    return [pair]


def _kept_tokens(written: CompletionOutput, tokenizer: Any) -> tuple[list[int], list[float]]:
    """The tokens of a response, with the one that ended it, and their log-probabilities. A stop
    string's are no part of it."""
    token_ids = list(written.token_ids)
    if isinstance(written.stop_reason, str):
        text = written.text.lstrip()
        while token_ids and not text.startswith(tokenizer.decode(token_ids).lstrip()):
            token_ids.pop()
    places = (written.logprobs or [])[: len(token_ids)]
    return token_ids, [
        round(place[token].logprob, LOGPROB_DIGITS)
        for token, place in zip(token_ids, places, strict=True)
        if place is not None
    ]


def bdhs_pair(
    claim: Claim,
    request: BdhsRequest,
    seed: int,
    rejected: RejectedResponse,
    prompt: Prompt,
    digest: InputDigest,
) -> Pair:
    """The reference as chosen, what the policy made of it as rejected.

    Raises: BadConversation, where what it made cannot be rendered.
    """
    token_ids, token_spans = _rejected_tokens(request, rejected, prompt)
    return Pair(
        prompt=request.conversation,
        images=request.images,
        chosen=[assistant_turn(request.reference)],
        rejected=[assistant_turn(rejected.text)],
        pair_id=claim.job_id,
        run=request.run,
        method=_bdhs_method(request),
        chosen_version=None,
        rejected_version=rejected.oldest_version,
        rejected_spans=rejected.spans,
        rejected_token_ids=token_ids,
        rejected_tokens=len(token_ids),
        chosen_tokens=len(prompt.answer(request.reference).token_ids),
        rejected_token_spans=token_spans,
        rejected_finish_reason=rejected.finish_reason,
        similarity=rejected.similarity,
        iterations=len(rejected.trace.iterations),
        seed=seed,
        settings=request.settings,
        input_digest=digest,
        created_at=datetime.now(UTC),
        metadata=request.metadata,
    )


def _rejected_tokens(
    request: BdhsRequest, rejected: RejectedResponse, prompt: Prompt
) -> tuple[list[int], list[Span] | None]:
    """The rejected side's tokens, and which of them the policy wrote (None: all).

    What was written in one go is as it was sampled; what was put together of parts is as it is
    rendered.
    """
    if rejected.token_ids is not None:
        start: list[int] | None = []
        if request.guidance == "answer":
            start = prompt.answer_start(request.reference, rejected.spans[0].start)
        if start == []:
            return rejected.token_ids, None
        if start is not None:
            token_ids = start + rejected.token_ids
            return token_ids, [Span(start=len(start), end=len(token_ids))]
    ended = rejected.finish_reason != "length"
    token_ids = prompt.answer(rejected.text, ended=ended).token_ids
    return token_ids, prompt.token_spans(rejected.text, rejected.spans)


def _bdhs_method(request: BdhsRequest) -> Literal["bdhs-attention", "bdhs-noise", "povid-token"]:
    """The pair's method; with both corruptions, the one that hides tokens names it."""
    if request.guidance == "token":
        return "povid-token"
    return "bdhs-attention" if request.hides_tokens else "bdhs-noise"
