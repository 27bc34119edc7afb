"""A family's engine beside its oracle, and the comparison of what they write."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image
from vllm import SamplingParams
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput

from service.schemas import Message
from tests.families.adapters import make_adapter
from tests.families.family import Family
from tests.families.oracle import NEVER, Oracle, Shown
from tests.worker import vision_tower
from tests.worker.preloaded import preloaded
from worker.bdhs.corruption import ImageCorruption
from worker.engine import DecodedImage, Engine
from worker.settings import WorkerSettings

NEW_TOKENS = 12
TOLERANCE = 1e-4

STEP_TOKENS = 96
"""Tokens in a step of the engine: most prompts here take several (chunked prefill)."""

BLOCK_TOKENS = 32
"""Tokens in a block of the prefix cache, the least on a CPU: most prompts here have one or more."""


@dataclass
class Served:
    """A family's tiny checkpoint in the engine and in transformers, each with and without one
    adapter."""

    family: Family
    engine: Engine
    oracles: dict[LoRARequest | None, Oracle]
    adapter: LoRARequest

    @property
    def oracle(self) -> Oracle:
        """Without the adapter."""
        return self.oracles[None]

    async def write(
        self,
        conversation: Sequence[Message],
        images: Sequence[Shown],
        lora: LoRARequest | None = None,
    ) -> RequestOutput:
        """What the engine writes, greedily."""
        prompt = self.engine.inputs.renderer.prompt(conversation)
        params = SamplingParams(
            temperature=0,
            max_tokens=NEW_TOKENS,
            logprobs=0,
            logit_bias=dict.fromkeys(self.oracle.suppressed, NEVER),
        )
        decoded = [decoded_image(shown.image) for shown in images]
        corruptions = [
            await self._corruption(image, shown)
            for image, shown in zip(decoded, images, strict=True)
        ]
        return await self.engine.generate(
            prompt.token_ids, params, decoded, corruptions=corruptions, lora=lora
        )

    async def _corruption(self, image: DecodedImage, shown: Shown) -> ImageCorruption | None:
        if shown.kept is None and not shown.noise_steps:
            return None
        every = range((await self.engine.placeholder(image)).image_tokens)
        return ImageCorruption(
            every if shown.kept is None else shown.kept, shown.noise_steps, shown.noise_seed
        )

    def assert_equal(
        self,
        output: RequestOutput,
        conversation: Sequence[Message],
        images: Sequence[Shown],
        lora: LoRARequest | None = None,
    ) -> None:
        """What the engine wrote is what transformers writes.

        One pass over the whole answer shows it: where each token is the likeliest one behind those
        before it, the first is what transformers begins with, and so on.
        """
        oracle = self.oracles[lora]
        text = oracle.renderer.render(conversation, open_turn=True)
        written = output.outputs[0]
        token_ids = list(written.token_ids)
        logits = oracle.logits(text, images, token_ids)
        likeliest = logits.clone()
        likeliest[:, oracle.suppressed] = NEVER
        what = f"{self.family.name}, {[(s.image.size, s.kept) for s in images]}, {lora}"
        assert token_ids == likeliest.argmax(-1).tolist(), what
        expected = torch.log_softmax(logits, -1)[range(len(token_ids)), token_ids]
        scores = [p[t].logprob for p, t in zip(written.logprobs or (), token_ids, strict=True)]
        np.testing.assert_allclose(scores, expected, atol=TOLERANCE, rtol=0, err_msg=what)


def decoded_image(image: Image) -> DecodedImage:
    """One picture has one name, as its bytes' hash would be."""
    return DecodedImage(f"test:{hash((image.size, image.tobytes()))}", image)


async def start(family: Family, checkpoint: Path, folder: Path) -> Served:
    """The caller stops the engine."""
    files = make_adapter(family, checkpoint, folder / "adapter")
    adapter = LoRARequest("adapter", 1_000_000, str(files))
    engine = Engine(settings(family, checkpoint))
    with preloaded():
        await engine.start()
    await engine.add_lora(adapter)
    oracles = {None: Oracle(family, checkpoint), adapter: Oracle(family, checkpoint, files)}
    return Served(family, engine, oracles, adapter)


def settings(family: Family, checkpoint: Path, **more: object) -> WorkerSettings:
    """Of a worker in float32, whose steps and blocks are small."""
    return WorkerSettings.model_validate(
        {
            "model": str(checkpoint),
            "dtype": "float32",
            "enforce_eager": True,
            "max_num_seqs": 16,
            "gpu_memory_utilization": 0.1,
            "max_lora_rank": 16,
            "engine_args": {
                "worker_extension_cls": vision_tower.EXTENSION,
                "trust_remote_code": family.trust_remote_code,
                "max_num_batched_tokens": STEP_TOKENS,
                "block_size": BLOCK_TOKENS,
            },
            **more,
        }
    )
