"""transformers as the oracle of what the engine writes: greedy, float32."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from vllm import SamplingParams
from vllm.lora.request import LoRARequest

from service.schemas import user_turn
from tests.families.written import Written
from worker.bdhs.corruption import ImageCorruption
from worker.bdhs.noise import noise_scales
from worker.engine import DecodedImage, Engine

NEW_TOKENS = 16
TOLERANCE = 1e-4


class Oracle:
    """The same checkpoint in transformers, perhaps with an adapter in peft."""

    def __init__(self, checkpoint: str, adapter: Path | None = None):
        model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
        self.model: Any = (PeftModel.from_pretrained(model, adapter) if adapter else model).eval()
        self.processor = AutoProcessor.from_pretrained(checkpoint)

    def inputs(self, text: str, image: DecodedImage, corruption: ImageCorruption | None) -> Any:
        bos = self.processor.tokenizer.bos_token
        inputs = self.processor(
            images=image.image,
            text=text,
            add_special_tokens=bos is None or not text.startswith(bos),
            return_tensors="pt",
        )
        if corruption is None:
            return inputs
        places = (inputs["input_ids"][0] == self.model.config.image_token_id).nonzero()[:, 0]
        hidden = sorted(set(range(len(places))) - set(corruption.kept))
        inputs["attention_mask"][0, places[hidden]] = 0
        if corruption.noise_steps:
            signal, noise = noise_scales(corruption.noise_steps)
            pixels = inputs["pixel_values"]
            generator = torch.Generator().manual_seed(corruption.noise_seed)
            epsilon = torch.randn(pixels[0].shape, generator=generator)
            inputs["pixel_values"] = (signal * pixels[0] + noise * epsilon)[None]
        return inputs

    def generate(
        self,
        text: str,
        image: DecodedImage,
        corruption: ImageCorruption | None,
        after: Sequence[int] = (),
        new_tokens: int = NEW_TOKENS,
    ) -> Written:
        """What it writes, greedily, once it has written `after`."""
        inputs = self.inputs(text, image, corruption)
        if after:
            ids = torch.tensor([list(after)])
            inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], 1)
            mask = inputs["attention_mask"]
            inputs["attention_mask"] = torch.cat([mask, torch.ones_like(ids)], 1)
        with torch.inference_mode():
            out = self.model.generate(
                **inputs,
                max_new_tokens=new_tokens,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        ids = out.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        scores = [
            torch.log_softmax(step[0], -1)[i].item()
            for step, i in zip(out.logits, ids, strict=True)
        ]
        return Written(ids, scores)


def random_image(width: int, height: int, seed: int) -> DecodedImage:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return DecodedImage(f"sha256:{seed:064x}", Image.fromarray(pixels))


async def image_tokens(engine: Engine, image: DecodedImage) -> int:
    """k of this image."""
    return (await engine.placeholder(image)).image_tokens


async def generate(
    engine: Engine,
    text: str,
    image: DecodedImage,
    corruption: ImageCorruption | None,
    lora: LoRARequest | None = None,
) -> tuple[Written, int]:
    """What the engine writes, greedily, and how many tokens its prompt had."""
    prompt = engine.inputs.renderer.prompt([user_turn(text, images=1)])
    params = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, logprobs=0)
    output = await engine.generate(
        prompt.token_ids, params, [image], corruptions=[corruption], lora=lora
    )
    written = output.outputs[0]
    scores = [lp[i].logprob for lp, i in zip(written.logprobs, written.token_ids, strict=True)]
    return Written(list(written.token_ids), scores), len(output.prompt_token_ids)
