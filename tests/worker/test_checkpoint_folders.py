"""Folders as the hub has them: engines start on them, and write what transformers writes; what
cannot be served ends the worker before anything is loaded."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from transformers import AutoConfig
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.renderers.hf import resolve_chat_template
from vllm.tokenizers import cached_tokenizer_from_config

from service.checkpoints.chat_template import NoChatTemplate
from service.checkpoints.input_processor import load_input_processor
from service.checkpoints.settings import InputSettings
from service.schemas import BdhsRequest, user_turn
from tests import hub_checkpoints
from tests.servers import Server
from tests.worker.adapters import make_adapter
from tests.worker.full_checkpoints import make_full
from tests.worker.oracle import (
    NEW_TOKENS,
    TOLERANCE,
    Oracle,
    Written,
    image_tokens,
    random_image,
)
from tests.worker.preloaded import preloaded
from worker.bdhs.corruption import ImageCorruption
from worker.engine import DecodedImage, Engine
from worker.engine_policy import EnginePolicy
from worker.model_shapes import model_shapes
from worker.plugin.masking import engine_names
from worker.settings import WorkerSettings
from worker.weights.adapters import check_adapter
from worker.weights.checkpoints import check_checkpoint

TEXT = "Describe the image."
PICTURES = [random_image(80, 150, 1), random_image(56, 56, 2), random_image(300, 90, 3)]


@asynccontextmanager
async def started(folder: Path, **settings: Any) -> AsyncIterator[Engine]:
    given = {"enforce_eager": True, "gpu_memory_utilization": 0.1, "max_lora_rank": 16, **settings}
    engine = Engine(WorkerSettings(model=str(folder), **given))
    with preloaded():
        await engine.start()
    try:
        yield engine
    finally:
        engine.stop()


async def write(engine: Engine, image: DecodedImage, corruption: ImageCorruption) -> Written:
    """What the engine writes, greedily, as a policy of BDHS asks it."""
    request = BdhsRequest(
        prompt=TEXT,
        images=[image.ref],
        reference="A cat.",
        temperature=0,
        max_tokens=NEW_TOKENS,
    )
    policy = await EnginePolicy.create(engine, request, [image])
    params = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, logprobs=0)
    output = await policy._generate(policy.prompt.token_ids, [corruption], params)
    written = output.outputs[0]
    assert written.logprobs is not None
    scores = [lp[i].logprob for lp, i in zip(written.logprobs, written.token_ids, strict=True)]
    return Written(list(written.token_ids), scores)


async def assert_equal_to_transformers(engine: Engine, oracle: Oracle) -> None:
    """Under several corruptions of all pictures, in one batch."""
    rendered = engine.inputs.renderer.render([user_turn(TEXT, 1)], open_turn=True)
    cases = [
        (picture, corruption)
        for picture in PICTURES
        for corruption in corruptions(await image_tokens(engine, picture))
    ]
    answers = await asyncio.gather(*(write(engine, *case) for case in cases))
    for (picture, corruption), answer in zip(cases, answers, strict=True):
        truth = oracle.generate(rendered, picture, corruption)
        assert answer.token_ids == truth.token_ids, f"{picture.image.size}, {corruption.kept}"
        np.testing.assert_allclose(answer.logprobs, truth.logprobs, atol=TOLERANCE, rtol=0)
    written = {tuple(answer.logprobs) for answer in answers}
    assert len(written) > len(PICTURES), "pictures and masks made no difference"


def corruptions(image_tokens: int) -> list[ImageCorruption]:
    """All kept, none, the ends, every third; noise on what is seen by all and by a third."""
    everything = list(range(image_tokens))
    kept = [everything, [], [0], [image_tokens - 1], everything[::3]]
    noisy = (everything, everything[::3])
    return [ImageCorruption(k) for k in kept] + [
        ImageCorruption(k, noise_steps=500, noise_seed=1) for k in noisy
    ]


async def test_an_older_folder_of_shards_in_half_precision(tmp_path: Path) -> None:
    """Published names, `chat_template.json`, no `processor_config.json`, the image's token by id,
    several ends."""
    folder = hub_checkpoints.llava_15(
        tmp_path,
        dtype=torch.float16,
        sharded=True,
        template="processor",
        image_token="image_token_id",
        end_token_ids=(2, 450, 263),
    )
    assert len(list(folder.glob("*.safetensors"))) > 1
    oracle = Oracle(str(folder))
    (folder / "processor_config.json").unlink()
    async with started(folder, dtype="float32") as engine:
        await assert_equal_to_transformers(engine, oracle)
        await assert_stops_at(engine, ends=[2, 450, 263], others=[100, 4000])


async def assert_stops_at(engine: Engine, ends: list[int], others: list[int]) -> None:
    async def write_only(token: int) -> list[int]:
        params = SamplingParams(temperature=0, max_tokens=3, logit_bias={token: 100.0})
        [written] = (await engine.generate([1, 450, 6635], params)).outputs
        assert written.finish_reason == ("stop" if token in ends else "length")
        return list(written.token_ids)

    for end in ends:
        assert await write_only(end) == [end]
    for other in others:
        assert await write_only(other) == [other] * 3


async def test_half_precision_is_served_as_it_is(tmp_path: Path) -> None:
    """The template is LLaVA-1.6-Mistral's own; the image's token is named by index."""
    folder = hub_checkpoints.llava_16_mistral(tmp_path, dtype=torch.bfloat16, sharded=True)
    async with started(folder) as engine:
        assert engine._running().model_config.dtype is torch.bfloat16
        [first, second, _] = PICTURES
        everything = [ImageCorruption(range(await image_tokens(engine, p))) for p in PICTURES]
        written = await write(engine, first, everything[0])
        assert written.token_ids
        assert written.logprobs != (await write(engine, second, everything[1])).logprobs


async def test_a_tower_of_pixtrals(tmp_path: Path) -> None:
    """k depends on the picture, and between its tokens stand others, which no mask hides."""
    folder = hub_checkpoints.llava_pixtral(tmp_path, template="processor")
    async with started(folder, dtype="float32") as engine:
        counted = {await image_tokens(engine, picture) for picture in PICTURES}
        assert len(counted) == len(PICTURES)
        for picture in PICTURES:
            placeholder = await engine.placeholder(picture)
            [view] = placeholder.views
            assert view.rows * view.columns == placeholder.image_tokens
        await assert_equal_to_transformers(engine, Oracle(engine.model))


@pytest.mark.parametrize("make", [hub_checkpoints.llava_15, hub_checkpoints.llava_pixtral])
def test_their_weights_and_what_is_trained_on_them_pass_the_checks(
    tmp_path: Path, make: Callable[..., Path]
) -> None:
    """As they are, as a trainer publishes them, and adapters."""
    folder = make(tmp_path / "hub", sharded=True, dtype=torch.float16)
    config = AutoConfig.from_pretrained(folder)
    shapes = model_shapes(config, engine_names(config.architectures[0]))
    check_checkpoint(folder, shapes)
    check_checkpoint(make_full(str(folder), tmp_path / "full", seed=1, parts=("tower",)), shapes)
    check_adapter(make_adapter(str(folder), tmp_path / "adapter", seed=1), shapes, 16)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("layout", get_args(hub_checkpoints.TemplateLayout))
def test_the_template_is_the_one_that_vllm_finds(
    tmp_path: Path, layout: hub_checkpoints.TemplateLayout
) -> None:
    folder = str(hub_checkpoints.llava_15(tmp_path, template=layout, weights=False))
    config = AsyncEngineArgs(model=folder).create_model_config()
    tokenizer: Any = cached_tokenizer_from_config(config)
    theirs: Any = resolve_chat_template(tokenizer, None, None, model_config=config)
    if layout == "none":
        assert theirs is None
        with pytest.raises(NoChatTemplate):
            load_input_processor(folder, InputSettings())
        return
    if layout == "additional":  # vLLM hands on what transformers chooses from
        theirs = theirs["default"]
    assert load_input_processor(folder, InputSettings()).template.text == theirs
    if layout in ("named", "additional"):
        named = load_input_processor(folder, InputSettings(chat_template="other")).template
        assert named.text == resolve_chat_template(tokenizer, "other", None, model_config=config)


WORK = "import typer; from worker.command import work; typer.run(work)"


def work(server: Server, model: str) -> subprocess.CompletedProcess[str]:
    """There are no weights and no such embedder: it ends before it needs either."""
    command = [sys.executable, "-c", WORK, "--model", model, "--embedder", "/no/such/embedder"]
    environment = os.environ | {"PREFSTREAM_REDIS_URL": server.url, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("options", "removed", "reason"),
    [
        ({"template": "none"}, None, "has no chat template"),
        ({}, "preprocessor_config.json", "its processor or tokenizer cannot be loaded"),
        (None, None, "there is no such folder here"),
    ],
)
def test_work_ends_at_start_with_the_reason(
    tmp_path: Path,
    server: Server,
    options: dict[str, Any] | None,
    removed: str | None,
    reason: str,
) -> None:
    folder = tmp_path / "checkpoint"
    if options is not None:
        hub_checkpoints.llava_16_vicuna(folder, weights=False, **options)
    if removed:
        (folder / removed).unlink()
    ended = work(server, str(folder))
    assert ended.returncode == 2, ended.stderr
    assert reason in ended.stderr
    assert "Traceback" not in ended.stderr
