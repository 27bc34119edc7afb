"""What a served policy makes of the shapes world's held-out images, over POST /sample.

`trainer.toy.recipe.measure` asks a checkpoint; this asks the service, so it sees the policy as
it is served, whatever version that is by now.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from service.client import AsyncClient, image_data
from service.schemas import SampleRequest, SampleResult
from trainer.toy.dataset import Item, held_out, png
from trainer.toy.judge import read_yes_no, score_caption

IN_FLIGHT = 64
"""Questions that are asked at once."""

ANSWER_TOKENS = 96
"""New tokens at most; the longest caption has about 45."""


@dataclass(frozen=True)
class ToyMetrics:
    """Shares in [0, 1], over half captions and half yes/no questions."""

    images: int
    yes_no_accuracy: float
    yes_share: float
    """Share of answers that say yes; half of the questions are to be answered so."""
    hallucination_rate: float
    """Captions with at least one shape that is not there (CHAIR_s)."""
    object_recall: float
    """Shapes of the images that their captions name."""
    well_formed: float
    """Captions that are nothing but whole sentences."""


async def measure_toy(client: AsyncClient, images: int, *, seed: int = 0) -> ToyMetrics:
    """Greedy answers to held-out questions."""
    items = held_out(images, kinds=("caption", "yes_no"), seed=seed)
    texts = await _answers(client, items)
    captions = [
        score_caption(text, item.scene)
        for text, item in zip(texts, items, strict=True)
        if item.kind == "caption"
    ]
    verdicts = [
        (read_yes_no(text), read_yes_no(item.reference))
        for text, item in zip(texts, items, strict=True)
        if item.kind == "yes_no"
    ]
    return ToyMetrics(
        images=images,
        yes_no_accuracy=sum(said == true for said, true in verdicts) / len(verdicts),
        yes_share=sum(said is True for said, _ in verdicts) / len(verdicts),
        hallucination_rate=sum(c.hallucinated > 0 for c in captions) / len(captions),
        object_recall=sum(c.recalled for c in captions) / sum(c.present for c in captions),
        well_formed=sum(c.well_formed for c in captions) / len(captions),
    )


async def _answers(client: AsyncClient, items: Sequence[Item]) -> list[str]:
    """In order. Raises: RuntimeError."""
    requests = (
        SampleRequest(
            prompt=item.prompt,
            images=[image_data(png(item))],
            temperature=0.0,
            max_tokens=ANSWER_TOKENS,
        )
        for item in items
    )
    texts: dict[int, str] = {}
    async for number, job in client.map(requests, in_flight=IN_FLIGHT):
        if not isinstance(job.result, SampleResult):
            raise RuntimeError(f"sampling job {job.id} {job.status}: {job.error}")
        texts[number] = job.result.responses[0].text
    return [texts[number] for number in range(len(items))]
