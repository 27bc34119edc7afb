"""Whether a model of a family that is not proven leaves image tokens out: what can be seen of it
without an oracle, on the running engine.

It does not show that a hidden token is hidden as the family's attention would hide it. That is what
tests/families shows of the proven ones.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog
import torch
from safetensors.torch import save_file
from vllm import SamplingParams
from vllm.lora.request import LoRARequest

from service.schemas import user_turn
from worker.bdhs.corruption import ImageCorruption
from worker.bdhs.noise import MAX_STEPS
from worker.engine.decoded_image import DecodedImage
from worker.engine.engine import Engine
from worker.engine.errors import NotEnoughMemory
from worker.engine.trial import trial_picture
from worker.model_shapes import ModelShapes
from worker.plugin.families import UnsupportedModel
from worker.weights import adapters

log = structlog.get_logger()

TOKENS = 8
"""Of each answer that is compared."""

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""Difference of log-probabilities up to which two answers are the same, by the model's dtype."""

ADAPTER_ID = 2**31 - 1
"""Of the adapter that is tried; no weight version has it."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One thing that was tried."""

    what: str
    problem: str | None
    """None: it held."""


@dataclass(frozen=True, slots=True)
class _Answer:
    token_ids: list[int]
    logprobs: list[float]

    def distance(self, other: "_Answer") -> float:
        """Largest difference of log-probabilities up to the first other token."""
        pairs = zip(self.token_ids, other.token_ids, strict=False)
        same = next((i for i, (a, b) in enumerate(pairs) if a != b), len(self.token_ids))
        compared = zip(self.logprobs[: same + 1], other.logprobs[: same + 1], strict=False)
        return max(abs(a - b) for a, b in compared)


async def start_unproven(engine: Engine) -> None:
    """Starts an engine of a family that is not proven, and checks it.

    Raises:
        UnsupportedModel: with what failed, and the reason.
        NotEnoughMemory: as `Engine.start`.
    """
    whose = f"--model {engine.model}: {engine.architecture}, whose family is not proven,"
    try:
        await engine.start()
    except NotEnoughMemory:
        raise
    except Exception as error:  # vLLM raises what it likes
        reason = f"{type(error).__name__}: {error}"
        raise UnsupportedModel(f"{whose} does not start: {reason}") from error
    checked = await check_masking(engine)
    for check in checked:
        log.info("unproven model checked", what=check.what, problem=check.problem or "none")
    if failed := [f"{check.what}: {check.problem}" for check in checked if check.problem]:
        raise UnsupportedModel(f"{whose} failed the check at start: {'; '.join(failed)}")


async def check_masking(engine: Engine) -> list[Checked]:
    """Tries what BDHS asks of a model, one after the other; after the first failure that leaves no
    engine, the rest is not tried. The engine must have been started."""
    trial = _Trial(engine)
    checked: list[Checked] = []
    for what, check in trial.checks.items():
        try:
            problem = await check()
        except Exception as error:  # models raise what they like
            problem = f"{type(error).__name__}: {error}"
        checked.append(Checked(what, problem))
        if not engine.alive:
            break
    return checked


class _Trial:
    def __init__(self, engine: Engine):
        self._engine = engine
        self._image = DecodedImage("prefstream:masking-check", trial_picture())
        self._tolerance = TOLERANCE[engine.dtype]
        self._whole = _Answer([], [])
        self.checks: dict[str, Callable[[], Awaitable[str | None]]] = {
            "as many rows as places": self._rows,
            "all kept equals no mask": self._all_kept,
            "noise changes the answer": self._noise,
            "an empty mask answers": self._empty,
            "an adapter changes the answer": self._adapter,
        }

    async def _rows(self) -> str | None:
        """The model itself raises, and the engine dies, where they are not as many."""
        placeholder = await self._engine.placeholder(self._image)
        if not placeholder.image_tokens:
            return "its processor writes no image token"
        self._whole = await self._answer(None)
        return None

    async def _all_kept(self) -> str | None:
        every = range((await self._engine.placeholder(self._image)).image_tokens)
        answer = await self._answer(ImageCorruption(every), share_whole=False)
        distance = answer.distance(self._whole)
        if answer.token_ids[:1] != self._whole.token_ids[:1] or distance > self._tolerance:
            return f"log-probabilities differ by {distance:.2g}"
        return None

    async def _noise(self) -> str | None:
        every = range((await self._engine.placeholder(self._image)).image_tokens)
        noisy = ImageCorruption(every, noise_steps=MAX_STEPS, noise_seed=0)
        return self._unchanged(await self._answer(noisy))

    async def _empty(self) -> str | None:
        return None if (await self._answer(ImageCorruption([]))).token_ids else "it writes nothing"

    async def _adapter(self) -> str | None:
        with TemporaryDirectory() as folder:
            _save_adapter(Path(folder), self._engine.shapes)
            adapter = LoRARequest("masking-check", ADAPTER_ID, folder)
            await self._engine.add_lora(adapter)
            try:
                return self._unchanged(await self._answer(None, lora=adapter))
            finally:
                await self._engine.remove_lora(ADAPTER_ID)

    def _unchanged(self, answer: _Answer) -> str | None:
        if answer.token_ids != self._whole.token_ids:
            return None
        distance = answer.distance(self._whole)
        return None if distance > self._tolerance else f"it changes by {distance:.2g}"

    async def _answer(
        self,
        corruption: ImageCorruption | None,
        *,
        lora: LoRARequest | None = None,
        share_whole: bool = True,
    ) -> _Answer:
        prompt = self._engine.inputs.renderer.prompt([user_turn("Describe the image.", images=1)])
        output = await self._engine.generate(
            prompt.token_ids,
            SamplingParams(temperature=0, max_tokens=TOKENS, logprobs=0, ignore_eos=True),
            [self._image],
            corruptions=[corruption],
            lora=lora,
            share_whole=share_whole,
        )
        written = output.outputs[0]
        places = zip(written.token_ids, written.logprobs or (), strict=True)
        logprobs = [place[token].logprob for token, place in places if place is not None]
        return _Answer(list(written.token_ids), logprobs)


def _save_adapter(folder: Path, shapes: ModelShapes, rank: int = 8) -> None:
    """An adapter of random numbers on every linear layer of the language model."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for layer, (outputs, inputs) in shapes.linear_layers.items():
        for half, size, scale in (("A", (rank, inputs), inputs), ("B", (outputs, rank), rank)):
            random = torch.randn(size, generator=generator) / scale**0.5
            tensors[f"base_model.model.{layer}.lora_{half}.weight"] = random
    save_file(tensors, folder / adapters.WEIGHTS)
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "bias": "none"}
    settings["target_modules"] = shapes.lora_target_modules
    (folder / adapters.CONFIG).write_text(json.dumps(settings))
