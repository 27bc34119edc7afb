"""A token that the tokenizer does not know has a log-probability, and ends nobody's requests."""

from pathlib import Path

from vllm import SamplingParams

from service.schemas import user_turn
from tests import hub_checkpoints
from tests.worker.preloaded import preloaded
from worker.engine import Engine
from worker.settings import WorkerSettings


async def test_a_row_that_pads_the_vocabulary_is_sampled(tmp_path: Path) -> None:
    folder = hub_checkpoints.llava_16_vicuna(tmp_path, vocabulary_padding=62)
    engine = Engine(
        WorkerSettings(model=str(folder), dtype="float32", enforce_eager=True, max_lora_rank=16)
    )
    with preloaded():
        await engine.start()
    try:
        tokenizer = engine.inputs.renderer.tokenizer
        unknown = len(tokenizer) + 8
        [cat] = tokenizer.encode("cat", add_special_tokens=False)
        prompt = engine.inputs.renderer.prompt([user_turn("What?", 0)]).token_ids
        for logprobs in (0, 2):
            for token, text in ((unknown, ""), (cat, " cat")):
                params = SamplingParams(
                    max_tokens=3, logprobs=logprobs, logit_bias={token: 100.0}, ignore_eos=True
                )
                written = (await engine.generate(prompt, params)).outputs[0]
                assert list(written.token_ids) == [token] * 3
                places = written.logprobs or []
                assert [place[token].decoded_token for place in places] == [text] * 3
        assert engine.alive
    finally:
        engine.stop()
