"""Adapters and full weights, adopted while a family is served."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText
from vllm import SamplingParams

from service.weight_store import WeightStore
from tests.families.adapters import make_adapter
from tests.families.oracle import NEVER, Oracle, Shown
from tests.families.pictures import PICTURES, picture
from tests.families.served import Served, decoded_image
from tests.families.test_masking import QUESTION
from worker.engine import weight_spans
from worker.weights.versions import WeightVersions

RELOADED = ("llava_next", "qwen2_5_vl", "internvl")
"""Families whose full weights are changed."""

LONG = 96
"""Tokens of a request that is in flight while weights change."""


@pytest.fixture
def versions(served: Served) -> Iterator[WeightVersions]:
    versions = WeightVersions(served.engine)
    yield versions
    versions.close()


async def test_an_adapter_adopted_under_load_changes_what_is_written(
    served: Served, versions: WeightVersions, tmp_path: Path
) -> None:
    checkpoint = Path(served.engine.model)
    made = make_adapter(served.family, checkpoint, tmp_path / "adapter", seed=7)
    shown = [Shown(image=image, kept=[0, 2]) for image in PICTURES]
    running = [asyncio.create_task(served.write(QUESTION, [one])) for one in shown * 4]
    store = WeightStore(str(tmp_path / "store"))
    await versions.adopt(store.publish(made, 1, "lora"))
    try:
        with versions.use_current() as lora:
            assert lora is not None
            served.oracles[lora] = Oracle(served.family, checkpoint, made)
            for one in shown:
                before = await served.write(QUESTION, [one])
                after = await served.write(QUESTION, [one], lora)
                served.assert_equal(after, QUESTION, [one], lora)
                assert after.outputs[0].logprobs != before.outputs[0].logprobs
            del served.oracles[lora]
        for one, output in zip(shown * 4, await asyncio.gather(*running), strict=True):
            served.assert_equal(output, QUESTION, [one])
    finally:  # version 1 is another adapter in the next test
        await served.engine.remove_lora(1)


async def test_full_weights_show_at_once(
    served: Served, versions: WeightVersions, tmp_path: Path
) -> None:
    """For a picture that was seen before, one that is seen only now, and one in flight: nothing
    that the old tower made of them is left in any cache."""
    if served.family.name not in RELOADED:
        pytest.skip("one family of each kind is enough")
    checkpoint = Path(served.engine.model)
    folder = change_seeing(served, checkpoint, tmp_path / "changed")
    seen, in_flight, new = (picture(80 + 30 * n, 120, 40 + n) for n in range(3))
    before = await served.write(QUESTION, [Shown(image=seen)])
    task, halfway = write_long(served, Shown(image=in_flight))
    await halfway.wait()
    store = WeightStore(str(tmp_path / "store"))
    await versions.adopt(store.publish(folder, 1, "full"))
    old, served.oracles[None] = served.oracles[None], Oracle(served.family, folder)
    try:
        for image in (seen, new):
            for shown in (Shown(image=image), Shown(image=image, kept=[0, 3])):
                output = await served.write(QUESTION, [shown])
                served.assert_equal(output, QUESTION, [shown])
                assert output.outputs[0].logprobs != before.outputs[0].logprobs
        written = (await task).outputs[0]
        first, second = weight_spans(written, None)
        assert (first.version, second.version) == (0, 1)
        ids = list(written.token_ids)
        for oracle, span in ((old, first), (served.oracle, second)):
            text = oracle.renderer.render(QUESTION, open_turn=True)
            logits = oracle.logits(text, [Shown(image=in_flight)], ids).clone()
            logits[:, oracle.suppressed] = NEVER
            expected = logits.argmax(-1).tolist()
            assert ids[span.start : span.end] == expected[span.start : span.end]
    finally:
        served.oracles[None] = old
        await served.engine.load_weights(checkpoint, 0)


def change_seeing(served: Served, checkpoint: Path, folder: Path) -> Path:
    """The checkpoint with noise on tower and projector, and with its own language model."""
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    language_model = {id(p) for p in model.get_decoder().parameters()}
    language_model |= {id(p) for p in model.get_output_embeddings().parameters()}
    generator = torch.Generator().manual_seed(9)
    for parameter in model.parameters():
        if id(parameter) not in language_model and parameter.dim() > 1:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data += parameter.std() * noise
    model.save_pretrained(folder)
    for file in checkpoint.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            shutil.copy(file, folder)
    return folder


def write_long(served: Served, shown: Shown) -> tuple[asyncio.Task, asyncio.Event]:
    """A request that writes on and on; and when it has written some."""
    halfway = asyncio.Event()

    def check(text: str) -> bool:
        halfway.set()
        return False

    params = SamplingParams(
        temperature=0,
        max_tokens=LONG,
        ignore_eos=True,
        logit_bias=dict.fromkeys(served.oracle.suppressed, NEVER),
    )
    request = served.engine.generate(
        served.engine.inputs.renderer.prompt(QUESTION).token_ids,
        params,
        [decoded_image(shown.image)],
        stop_check=check,
    )
    return asyncio.create_task(request), halfway
