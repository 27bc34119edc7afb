"""The tokens of a pair's sides: as they were sampled, with what ended them and nothing more."""

from service.schemas import IterationTrace, Pair
from tests.parity.test_parity import CONVERSATIONS, sampled_row
from worker.engine import Engine

ONE_TURN = CONVERSATIONS["one turn"]


async def test_a_side_that_was_cut_has_no_end(engine: Engine) -> None:
    row = await sampled_row(engine, ONE_TURN, max_tokens=5, min_tokens=5)
    pair, renderer = row.pair, engine.inputs.renderer
    assert pair.chosen_finish_reason == pair.rejected_finish_reason == "length"
    for side in (pair.chosen_token_ids, pair.rejected_token_ids):
        assert side is not None
        assert len(side) == 5
        assert not renderer.end_token_ids & set(side)


async def test_a_stop_string_is_no_part_of_a_side(engine: Engine) -> None:
    tokenizer = engine.inputs.renderer.tokenizer
    free = (await sampled_row(engine, ONE_TURN, max_tokens=24, min_tokens=24)).pair
    text, ids = free.chosen[0].text, free.chosen_token_ids or []
    kept = next(n for n in range(8, 20) if text.startswith(tokenizer.decode(ids[:n]).lstrip()))
    stop = tokenizer.decode(ids[kept : kept + 2])
    row = await sampled_row(engine, ONE_TURN, max_tokens=24, min_tokens=kept, stop=[stop])
    pair = row.pair
    assert pair.chosen_finish_reason == "stop"
    side = pair.chosen_token_ids or []
    assert side == ids[: len(side)]
    assert len(pair.chosen_logprobs or ()) == len(side)
    assert stop not in tokenizer.decode(side)
    assert pair.chosen[0].text.startswith(tokenizer.decode(side).strip())


async def test_an_end_is_part_of_a_side(engine: Engine) -> None:
    renderer = engine.inputs.renderer
    end = renderer.tokenizer.eos_token_id
    pair = (await sampled_row(engine, ONE_TURN, logit_bias={end: 100.0})).pair
    assert pair.chosen_finish_reason == "stop"
    assert pair.chosen_token_ids == [end]
    assert pair.chosen[0].text == ""


def assert_tokens_of_bdhs(engine: Engine, pair: Pair, last: IterationTrace) -> None:
    """`last`: the iteration that was taken."""
    renderer = engine.inputs.renderer
    assert pair.input_digest == engine.inputs.digest
    assert pair.chosen_token_ids is None  # nobody wrote it here
    assert pair.rejected_finish_reason == last.sentences[-1].finish_reason
    ids, spans = pair.rejected_token_ids, pair.rejected_token_spans
    assert ids is not None
    assert (ids[-1] in renderer.end_token_ids) == (pair.rejected_finish_reason != "length")
    if last.guided:
        assert spans is not None
        written = renderer.tokenizer.decode(ids, skip_special_tokens=True)
        # Some templates have a space before the answer; and a cut one may end within a character,
        # of which its text has nothing.
        assert written.strip().rstrip("\ufffd") == last.text.strip().rstrip("\ufffd")
        for characters, tokens in zip(pair.rejected_spans, spans, strict=True):
            span = ids[tokens.start : tokens.end]
            written = renderer.tokenizer.decode(span, skip_special_tokens=True)
            assert last.text[characters.start : characters.end].strip() in written
    else:
        assert spans is None
        assert ids == last.sentences[0].completion_token_ids
