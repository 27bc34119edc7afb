"""The engine's log-probability of each token of a response, and the trainer's: the same weights.

The policy samples, the worker makes a pair of it, the trainer's collator a batch of that, and
transformers scores the batch. True templates and a true tokenizer, beside the toy's.
"""

import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText
from vllm import SamplingParams
from vllm.lora.request import LoRARequest

from service import images
from service.broker import Claim
from service.checkpoints.input_processor import load_input_processor
from service.schemas import (
    Annotation,
    ImagePart,
    Message,
    Pair,
    Response,
    SampleRequest,
    SampleResult,
    TextPart,
    WeightSpan,
    assistant_turn,
    user_turn,
)
from tests import hub_checkpoints
from tests.worker.adapters import make_adapter
from tests.worker.preloaded import preloaded
from trainer.methods.collator import RowCollator
from trainer.settings import TrainerSettings
from trainer.stream.rows import Row
from trainer.toy import CHECKPOINT
from worker.engine import DecodedImage, Engine
from worker.pairs import ranked_pairs
from worker.settings import WorkerSettings

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

TOLERANCE = 1e-4

CHECKPOINTS: dict[str, Callable[[Path], Path]] = {
    "llava-1.5": hub_checkpoints.llava_15,
    "llava-1.6-vicuna": hub_checkpoints.llava_16_vicuna,
    "llava-1.6-mistral": hub_checkpoints.llava_16_mistral,
    "toy": lambda _: CHECKPOINT,
    "llava-1.5 under settings": hub_checkpoints.llava_15,
}

SETTINGS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.3, 0.3, 0.3]}
"""`mm_processor_kwargs` of the last; its chat template, too, is another."""

EARLIER = [
    Message(role="user", content=[ImagePart(), TextPart(text="What is on the left?")]),
    assistant_turn("A red circle. It is small."),
    user_turn("And what is on the right of this one?", 1),
]

CONVERSATIONS: dict[str, list[Message]] = {
    "one turn": [user_turn("Describe the image in detail.", 1)],
    "several turns, two images": EARLIER,
    "two images in a turn": [user_turn("What differs?", 2)],
    "no image": [user_turn("What is a picture?", 0)],
    "a system prompt": [
        Message(role="system", content=[TextPart(text="Answer the human's questions.")]),
        user_turn("What is this?", 1),
    ],
}

SIZES = ((90, 37), (56, 112))
"""Of the pictures, in pixels; the first must be resized by all."""


@dataclass
class Policy:
    """A checkpoint in the engine and in the trainer."""

    name: str
    engine: Engine
    collate: RowCollator
    model: Any
    """transformers', in float32."""


@pytest.fixture(scope="module", params=CHECKPOINTS)
async def policy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Policy]:
    folder = CHECKPOINTS[request.param](tmp_path_factory.mktemp(request.param))
    shared: dict[str, Any] = {}
    if request.param.endswith("under settings"):
        template = folder / "of the user.jinja"
        template.write_text(hub_checkpoints.MISTRAL_TEMPLATE)
        shared = {"chat_template": str(template), "mm_processor_kwargs": SETTINGS}
    engine = Engine(
        WorkerSettings(
            **shared,
            model=str(folder),
            dtype="float32",
            enforce_eager=True,
            max_num_seqs=8,
            gpu_memory_utilization=0.1,
            max_lora_rank=16,
            engine_args={"limit_mm_per_prompt": {"image": 2}},
        )
    )
    with preloaded():
        await engine.start()
    inputs = load_input_processor(str(folder), TrainerSettings(**shared))
    assert inputs.digest == engine.inputs.digest
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    yield Policy(request.param, engine, RowCollator(inputs), model.eval())
    engine.stop()


def picture(width: int, height: int) -> bytes:
    pixels = np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    encoded = BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()


async def sampled_row(
    engine: Engine,
    conversation: list[Message],
    *,
    lora: LoRARequest | None = None,
    **sampling: Any,
) -> Row:
    """A pair of two responses that the engine sampled, as the worker makes it."""
    count = sum(isinstance(part, ImagePart) for turn in conversation for part in turn.parts)
    encoded = [picture(*size) for size in SIZES[:count]]
    shown = [
        DecodedImage(f"sha256:{i:064x}", images.decode_rgb(content))
        for i, content in enumerate(encoded)
    ]
    prompt = engine.inputs.renderer.prompt(conversation)
    params = SamplingParams(n=2, logprobs=0, **{"max_tokens": 12, "seed": 1} | sampling)
    output = await engine.generate(prompt.token_ids, params, shown, lora=lora)
    request = SampleRequest(
        messages=conversation,
        images=[image.ref for image in shown],
        n=2,
        annotator="self",
    )
    result = SampleResult(
        responses=[
            Response(
                text=written.text,
                finish_reason=str(written.finish_reason),
                token_ids=list(written.token_ids),
                weight_versions=[WeightSpan(start=0, end=len(written.token_ids), version=0)],
            )
            for written in output.outputs
        ],
        seed=1,
        annotation=Annotation(annotator="self", judge="", judgements=[], chosen=0, rejected=1),
    )
    claim = Claim("pair", "sample", request, 1, "w", None)
    inputs = engine.inputs
    [pair] = ranked_pairs(
        claim, request, result, output.outputs, inputs.processor.tokenizer, inputs.digest
    )
    return Row(Pair.model_validate_json(pair.model_dump_json()), encoded, staleness=0)


@torch.no_grad()
def trainer_logps(model: Any, batch: dict[str, Any]) -> list[list[float]]:
    """Log-probabilities of the completions' tokens, in the order of the batch's sides."""
    inputs = {k: v for k, v in batch.items() if k in ("input_ids", "attention_mask")}
    inputs |= {k: v for k, v in batch.items() if k.startswith(("pixel_values", "image_"))}
    logps = model(**inputs).logits[:, :-1].log_softmax(-1)
    each = logps.gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    return [
        scores[mask].tolist()
        for scores, mask in zip(each, batch["completion_mask"][:, 1:].bool(), strict=True)
    ]


def assert_parity(policy: Policy, model: Any, rows: list[Row]) -> None:
    batch = policy.collate(rows)
    ours = trainer_logps(model, batch)
    pairs = [row.pair for row in rows]
    theirs = [p.chosen_logprobs for p in pairs] + [p.rejected_logprobs for p in pairs]
    ids = [p.chosen_token_ids for p in pairs] + [p.rejected_token_ids for p in pairs]
    for mine, engine, written in zip(ours, theirs, ids, strict=True):
        assert engine is not None
        assert written is not None
        assert len(mine) == len(engine) == len(written)
        assert mine == pytest.approx(engine, abs=TOLERANCE)
    # The same as the difference that training logs.
    sampled = batch["sampling_logps"]
    assert [len(x[~x.isnan()]) for x in sampled] == [len(x) for x in ours]
    for mine, row in zip(ours, sampled, strict=True):
        assert row[~row.isnan()].tolist() == pytest.approx(mine, abs=TOLERANCE)


@pytest.mark.parametrize("conversation", CONVERSATIONS)
async def test_the_trainer_scores_what_the_policy_wrote(policy: Policy, conversation: str) -> None:
    assert_parity(
        policy, policy.model, [await sampled_row(policy.engine, CONVERSATIONS[conversation])]
    )


async def test_rows_of_different_lengths_and_pictures(policy: Policy) -> None:
    rows = [
        await sampled_row(policy.engine, CONVERSATIONS["one turn"], max_tokens=3),
        await sampled_row(policy.engine, EARLIER, max_tokens=20),
        await sampled_row(policy.engine, CONVERSATIONS["no image"]),
    ]
    assert_parity(policy, policy.model, rows)


async def test_an_end_that_was_sampled_is_trained_on(policy: Policy) -> None:
    renderer = policy.engine.inputs.renderer
    end = renderer.tokenizer.eos_token_id
    row = await sampled_row(policy.engine, EARLIER, logit_bias={end: 100.0}, min_tokens=0)
    assert row.pair.chosen_finish_reason == "stop"
    assert row.pair.chosen_token_ids == [end]
    assert_parity(policy, policy.model, [row])


async def test_settings_that_one_side_lacks_are_seen(policy: Policy) -> None:
    """In the digest, and in the figures."""
    if not policy.name.endswith("under settings"):
        pytest.skip("the others have no settings")
    row = await sampled_row(policy.engine, CONVERSATIONS["one turn"])
    template = policy.engine.inputs.template.source
    for part, settings in (
        ("processor", TrainerSettings(chat_template=template)),
        ("chat_template", TrainerSettings(mm_processor_kwargs=SETTINGS)),
    ):
        inputs = load_input_processor(policy.engine.model, settings)
        assert inputs.digest.differences(policy.engine.inputs.digest) == [part]
        other = Policy(policy.name, policy.engine, RowCollator(inputs), policy.model)
        with pytest.raises(AssertionError):
            assert_parity(other, policy.model, [row])


async def test_under_an_adapter(policy: Policy, tmp_path: Path) -> None:
    if policy.name == "toy":
        targets = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
    else:
        targets = r".*language_model.*\.(q|v|down)_proj"
    adapter = make_adapter(policy.engine.model, tmp_path / "a", seed=1, targets=targets)
    lora = LoRARequest("a", 1, str(adapter))
    await policy.engine.add_lora(lora)
    try:
        rows = [await sampled_row(policy.engine, EARLIER, lora=lora)]
        adapted = PeftModel.from_pretrained(policy.model, str(adapter))
        try:
            assert_parity(policy, adapted.eval(), rows)
            with adapted.disable_adapter(), pytest.raises(AssertionError):
                assert_parity(policy, adapted, rows)
        finally:
            adapted.unload()
    finally:
        await policy.engine.remove_lora(1)


async def test_an_offline_side_is_scored_as_the_engine_scores_it(policy: Policy) -> None:
    """Of a data set: the engine's log-probability of each of its tokens, in a prompt."""
    row = await sampled_row(policy.engine, EARLIER)
    text = "There are two circles. One is red."
    nothing = {f"chosen_{name}": None for name in ("token_ids", "logprobs", "finish_reason")}
    pair = row.pair.model_copy(update={"chosen": [assistant_turn(text)], **nothing})
    renderer = policy.engine.inputs.renderer
    answer = renderer.answer(EARLIER, text)
    assert answer.token_ids[-1] in renderer.end_token_ids
    prompt = renderer.prompt(EARLIER)
    assert answer.prompt_token_ids == prompt.token_ids
    shown = [
        DecodedImage(f"sha256:{i:064x}", images.decode_rgb(content))
        for i, content in enumerate(row.images)
    ]
    params = SamplingParams(max_tokens=1, prompt_logprobs=0)
    output = await policy.engine.generate(
        [*answer.prompt_token_ids, *answer.token_ids], params, shown
    )
    places = (output.prompt_logprobs or [])[-len(answer.token_ids) :]
    engine = [
        place[token].logprob for place, token in zip(places, answer.token_ids, strict=True) if place
    ]
    batch = policy.collate([Row(pair, row.images, staleness=0)])
    mine = trainer_logps(policy.model, batch)[0]
    assert mine == pytest.approx(engine, abs=TOLERANCE)
