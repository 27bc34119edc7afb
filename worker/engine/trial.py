"""Whether an engine that has come up can do what jobs ask of it: one request, with a picture.

An engine may start and die of whatever it is asked first (a kernel that this machine's CPU or GPU
lacks). No job shall find that out.
"""

import asyncio
from contextlib import suppress

from PIL import Image, ImageDraw
from vllm import SamplingParams

from service.schemas import user_turn
from worker.engine.decoded_image import DecodedImage
from worker.engine.engine import Engine
from worker.engine.errors import EngineDied, PromptTooLong, RequestRefused

TOKENS = 2
"""Of the answer: one of a prefill, one of a decoding step."""


async def try_engine(engine: Engine, timeout_s: float) -> None:
    """Raises: EngineDied, also if it does not answer in time. A refusal is an answer."""
    prompt = engine.inputs.renderer.prompt([user_turn("Describe the image.", images=1)])
    params = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    image = DecodedImage("prefstream:trial", trial_picture())
    try:
        async with asyncio.timeout(timeout_s):
            with suppress(PromptTooLong, RequestRefused):
                await engine.generate(prompt.token_ids, params, [image])
    except TimeoutError:
        raise EngineDied(f"it did not answer a first request within {timeout_s:g} s") from None


def trial_picture() -> Image.Image:
    """Something to see: shapes on a gradient, neither square nor small."""
    picture = Image.linear_gradient("L").resize((320, 240)).convert("RGB")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((30, 40, 130, 140), fill=(200, 30, 30))
    draw.rectangle((180, 90, 290, 210), fill=(30, 60, 200))
    return picture
