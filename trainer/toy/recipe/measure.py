"""States what a checkpoint gets right and wrong on held-out scenes.

    python -m trainer.toy.recipe.measure [--checkpoint DIR] [--images N]

Answers are greedy. Without the image means the prompt without image tokens, as BDHS gives it when
its mask hides them all.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from trainer.toy import CHECKPOINT
from trainer.toy.dataset import Item, held_out
from trainer.toy.judge import CaptionScore, read_color, read_yes_no, score_caption
from trainer.toy.recipe.model import load

IMAGES = 400
"""Held-out scenes for each kind of question."""
BATCH = 50


@dataclass(frozen=True)
class CheckpointMetrics:
    """Metrics of one way of asking; every one is a share between 0 and 1."""

    yes_no_accuracy: float
    """Right yes/no answers; an answer that is neither counts as wrong."""
    yes_share: float
    """Yes/no answers that say yes; half of the true ones do."""
    color_accuracy: float
    """Color questions whose answer names the right color first."""
    captions_hallucinating: float
    """Captions with at least one claim that is not in the scene."""
    chair_i: float
    """Claims that are not in the scene, among all claims (CHAIR_i, Rohrbach et al. 2018)."""
    recall: float
    """Shapes that are mentioned, among all shapes."""
    precision: float
    """Claims that are true, among all claims."""
    well_formed: float
    """Captions that consist of whole caption sentences only."""


def answer(
    model: Any,
    processor: Any,
    items: Sequence[Item],
    *,
    with_image: bool = True,
    max_tokens: int = 64,
) -> list[str]:
    """The model's greedy answer to each item."""
    answers: list[str] = []
    for start in range(0, len(items), BATCH):
        part = items[start : start + BATCH]
        prompts = [_prompt(item, processor, with_image=with_image) for item in part]
        images = [item.image() for item in part] if with_image else None
        inputs = processor(images=images, text=prompts, padding=True, return_tensors="pt")
        with torch.inference_mode():
            tokens = model.generate(**inputs, do_sample=False, max_new_tokens=max_tokens)
        new_tokens = tokens[:, inputs["input_ids"].shape[1] :]
        answers += processor.batch_decode(new_tokens, skip_special_tokens=True)
    return answers


def _prompt(item: Item, processor: Any, *, with_image: bool) -> str:
    """The item's question as a rendered generation prompt."""
    image = [{"type": "image"}] if with_image else []
    asked = {"role": "user", "content": [*image, {"type": "text", "text": item.prompt}]}
    return processor.tokenizer.apply_chat_template(
        [asked], tokenize=False, add_generation_prompt=True
    )


def figures(
    model: Any,
    processor: Any,
    *,
    with_image: bool,
    images: int = IMAGES,
) -> CheckpointMetrics:
    """Asks `images` questions of each kind and judges the answers by the scenes."""

    def ask(kind: str) -> tuple[list[Item], list[str]]:
        items = held_out(images, kinds=(kind,))
        return items, answer(model, processor, items, with_image=with_image)

    items, answers = ask("yes_no")
    verdicts = [read_yes_no(text) for text in answers]
    right = [v == read_yes_no(item.reference) for v, item in zip(verdicts, items, strict=True)]
    items, answers = ask("color")
    colored = [
        read_color(text) == read_color(item.reference)
        for text, item in zip(answers, items, strict=True)
    ]
    items, answers = ask("caption")
    scores = [score_caption(t, item.scene) for t, item in zip(answers, items, strict=True)]
    return CheckpointMetrics(
        yes_no_accuracy=sum(right) / images,
        yes_share=sum(verdict is True for verdict in verdicts) / images,
        color_accuracy=sum(colored) / images,
        **_caption_figures(scores),
    )


def _caption_figures(scores: Sequence[CaptionScore]) -> dict[str, float]:
    claims = sum(len(score.claims) for score in scores)
    false = sum(score.hallucinated for score in scores)
    return {
        "captions_hallucinating": sum(score.hallucinated > 0 for score in scores) / len(scores),
        "chair_i": false / claims if claims else 0.0,
        "recall": sum(score.recalled for score in scores) / sum(score.present for score in scores),
        "precision": 1 - false / claims if claims else 0.0,
        "well_formed": sum(score.well_formed for score in scores) / len(scores),
    }


def measure(checkpoint: Path, images: int = IMAGES) -> dict[str, CheckpointMetrics]:
    """The figures of a checkpoint, with the image and without."""
    model, processor = load(checkpoint)
    return {
        "image": figures(model, processor, with_image=True, images=images),
        "no image": figures(model, processor, with_image=False, images=images),
    }


def report(measured: dict[str, dict[str, CheckpointMetrics]]) -> Table:
    """The figures of named models as a table, two columns each."""
    columns = {
        f"{model}, {way}": asdict(result)
        for model, results in measured.items()
        for way, result in results.items()
    }
    table = Table("", *columns)
    for name in CheckpointMetrics.__dataclass_fields__:
        cells = (f"{column[name]:.3f}" for column in columns.values())
        table.add_row(name.replace("_", " "), *cells)
    return table


def main() -> None:
    """Prints the figures of a checkpoint, the shipped one unless told otherwise."""
    parser = argparse.ArgumentParser(description="State a checkpoint's figures on held-out scenes.")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="folder to measure")
    parser.add_argument("--images", type=int, default=IMAGES, help="scenes for each question kind")
    arguments = parser.parse_args()
    name = arguments.checkpoint.name
    Console().print(report({name: measure(arguments.checkpoint, arguments.images)}))


if __name__ == "__main__":
    main()
