"""Recurrent layers: what is hidden is absent, and keeps its position from others.

On a CPU, vLLM has these layers in bfloat16 alone, so what the engine writes is close to
transformers', and not equal.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from vllm.outputs import RequestOutput

from tests.families.family import FAMILIES
from tests.families.oracle import Oracle, Shown
from tests.families.pictures import PICTURES
from tests.families.served import Served, settings
from tests.families.test_masking import QUESTION, masks
from tests.worker.preloaded import preloaded
from worker.engine import Engine

RECURRENT = [family for family in FAMILIES.values() if family.recurrent]

CLOSE = 0.04
"""Root mean square of differences of log-probabilities that bfloat16 makes."""


@pytest.fixture(scope="module", params=RECURRENT, ids=[family.name for family in RECURRENT])
async def served(
    request: pytest.FixtureRequest, checkpoint: Callable[[str], Path]
) -> AsyncIterator[Served]:
    family = request.param
    folder = checkpoint(family.name)
    of_bfloat16 = settings(family, folder, dtype="bfloat16")
    for name in ("max_num_batched_tokens", "block_size"):  # vLLM has its own for them
        del of_bfloat16.engine_args[name]
    engine = Engine(of_bfloat16)
    with preloaded():
        await engine.start()
    yield Served(family, engine, {None: Oracle(family, folder)}, adapter=None)  # type: ignore[arg-type]
    engine.stop()


async def test_what_is_hidden_is_absent(served: Served) -> None:
    cases = [
        Shown(image=image, kept=kept)
        for image in PICTURES
        for kept in masks(served.oracle.image_tokens(image))
    ]
    outputs = await asyncio.gather(*(served.write(QUESTION, [shown]) for shown in cases))
    pairs = list(zip(cases, outputs, strict=True))
    assert distance(served, pairs) < CLOSE
    # Under each other's masks they would not be: the measure tells them apart.
    assert distance(served, list(zip(cases[1:], outputs, strict=False))) > 3 * CLOSE


async def test_masks_over_two_images(served: Served) -> None:
    first, second, _ = PICTURES
    conversation = [QUESTION[0].model_copy(update={"content": QUESTION[0].content * 2})]
    shown = [Shown(image=first, kept=[0, 2]), Shown(image=second, kept=[])]
    output = await served.write(conversation, shown)
    assert rms(differences(served, conversation, shown, output)) < CLOSE


def distance(served: Served, pairs: list[tuple[Shown, RequestOutput]]) -> float:
    return rms(
        np.concatenate([differences(served, QUESTION, [shown], out) for shown, out in pairs])
    )


def differences(served: Served, conversation, shown, output: RequestOutput) -> np.ndarray:
    """Of the log-probability of each token that the engine wrote."""
    written = output.outputs[0]
    ids = list(written.token_ids)
    text = served.oracle.renderer.render(conversation, open_turn=True)
    logits = served.oracle.logits(text, shown, ids)
    expected = torch.log_softmax(logits, -1)[range(len(ids)), ids].numpy()
    return np.array([p[t].logprob for p, t in zip(written.logprobs, ids, strict=True)]) - expected


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))
