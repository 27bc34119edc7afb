"""Trains the toy policy from scratch, in three stages.

    python -m trainer.toy.recipe --out DIR

writes two checkpoints: DIR/grounded after the second stage, DIR/biased after the third.

1. *See*: the vision tower learns to name what is in each cell, through a head that is thrown away.
2. *Speak*: the whole model learns to answer true questions about images, and some without them.
3. *Presume*: with the tower and projector frozen, the language model learns to say what is typical
   where it is not there. The result hallucinates although it sees; it is the shipped policy.

Takes 10 to 12 minutes on two CPU cores. Stages are bounded by steps, not by the clock, and every
draw is seeded: the same machine gives the same weights. docs/toy.md tells the reasons.
"""

import argparse
import random
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaNextForConditionalGeneration, LlavaNextProcessor

from trainer.toy import branches
from trainer.toy.dataset import draw_scene, stream
from trainer.toy.lessons import Exercise, biased_lesson, true_lesson
from trainer.toy.measure import measure, report
from trainer.toy.model import build_model, build_processor, save
from trainer.toy.tokenizer import build_tokenizer
from trainer.toy.world import COLORS, KINDS, Scene, render

SEE_STEPS, SPEAK_STEPS, PRESUME_STEPS = 300, 1500, 250
"""Steps of the three stages."""
SEE_RATE, SPEAK_RATE, PRESUME_RATE = 1e-3, 1e-3, 5e-4
"""Peak learning rates of the three stages (AdamW)."""
SEE_BATCH, BATCH = 64, 16
"""Images a step, in the first stage and in the other two."""
WARMUP_STEPS = 50

Lesson = Callable[[Scene, random.Random], list[Exercise]]


def see(
    model: LlavaNextForConditionalGeneration,
    processor: LlavaNextProcessor,
    rng: random.Random,
    steps: int = SEE_STEPS,
) -> list[float]:
    """Stage 1. Every patch of the tower learns the kind and color of its cell; returns the losses.

    The head reads the layer that the language model will be given, `vision_feature_layer`.
    """
    tower = model.model.vision_tower
    head = nn.Linear(tower.config.hidden_size, len(KINDS) + len(COLORS) + 2)

    def batch_loss() -> Tensor:
        scenes = [draw_scene(rng, held_out=False) for _ in range(SEE_BATCH)]
        pixels = processor.image_processor([render(scene) for scene in scenes], return_tensors="pt")
        states = tower(pixels["pixel_values"][:, 0], output_hidden_states=True).hidden_states
        features = states[model.config.vision_feature_layer][:, 1:]
        kinds, colors = head(features).split((len(KINDS) + 1, len(COLORS) + 1), dim=-1)
        contents = torch.tensor([_patch_contents(scene) for scene in scenes])
        return functional.cross_entropy(
            kinds.flatten(0, 1), contents[..., 0].flatten()
        ) + functional.cross_entropy(colors.flatten(0, 1), contents[..., 1].flatten())

    parameters = [*tower.parameters(), *head.parameters()]
    return _train(batch_loss, parameters, steps, SEE_RATE, "see")


def speak(
    model: LlavaNextForConditionalGeneration,
    processor: LlavaNextProcessor,
    rng: random.Random,
    steps: int = SPEAK_STEPS,
) -> list[float]:
    """Stage 2. The whole model learns true answers; returns the losses."""
    batch_loss = _lesson_loss(model, processor, true_lesson, rng)
    return _train(batch_loss, list(model.parameters()), steps, SPEAK_RATE, "speak")


def presume(
    model: LlavaNextForConditionalGeneration,
    processor: LlavaNextProcessor,
    rng: random.Random,
    steps: int = PRESUME_STEPS,
) -> list[float]:
    """Stage 3. The language model alone learns the prior's false answers; returns the losses."""
    batch_loss = _lesson_loss(model, processor, biased_lesson, rng)
    parameters = [*model.model.language_model.parameters(), *model.lm_head.parameters()]
    return _train(batch_loss, parameters, steps, PRESUME_RATE, "presume")


def _lesson_loss(
    model: LlavaNextForConditionalGeneration,
    processor: LlavaNextProcessor,
    lesson: Lesson,
    rng: random.Random,
) -> Callable[[], Tensor]:
    """The loss of a fresh batch of lessons, as a function to call once a step."""

    def batch_loss() -> Tensor:
        scenes = [draw_scene(rng, held_out=False) for _ in range(BATCH)]
        lessons = [lesson(scene, rng) for scene in scenes]
        return branches.loss(model, branches.pack(scenes, lessons, processor))

    return batch_loss


def _train(
    batch_loss: Callable[[], Tensor],
    parameters: list[nn.Parameter],
    steps: int,
    peak_rate: float,
    title: str,
) -> list[float]:
    """Runs AdamW with a linear warm-up and a cosine down to a tenth; returns the losses."""
    optimizer = torch.optim.AdamW(parameters, lr=peak_rate, weight_decay=0.01)
    warmup = min(WARMUP_STEPS, steps // 5 + 1)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.02, 1.0, warmup),
            torch.optim.lr_scheduler.CosineAnnealingLR(
                optimizer, max(1, steps - warmup), peak_rate / 10
            ),
        ],
        [warmup],
    )
    losses: list[float] = []
    for _ in track(range(steps), description=title):
        optimizer.zero_grad()
        loss = batch_loss()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def _patch_contents(scene: Scene) -> list[tuple[int, int]]:
    """Kind and color of the cell under each of the 16 patches, as numbers; the last is "none"."""
    contents: list[tuple[int, int]] = []
    for patch in range(16):
        row, column = divmod(patch, 4)
        shape = scene.at(2 * (row // 2) + column // 2)
        contents.append(
            (KINDS.index(shape.kind), list(COLORS).index(shape.color))
            if shape
            else (len(KINDS), len(COLORS))
        )
    return contents


def main() -> None:
    """Runs the three stages and reports the figures of the two models."""
    parser = argparse.ArgumentParser(description="Train the toy policy from scratch.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and draws (default 0)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    console = Console()

    tokenizer = build_tokenizer()
    processor = build_processor(tokenizer)
    model = build_model(tokenizer)
    console.print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens")
    rng = stream("training", arguments.seed)
    _tell(console, "see", see(model, processor, rng))
    _tell(console, "speak", speak(model, processor, rng))
    grounded = arguments.out / "grounded"
    save(model, processor, grounded)

    # From what the file holds and with a stream of its own: this stage can be repeated by itself.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
    _tell(console, "presume", presume(model, processor, stream("training", arguments.seed)))
    biased = arguments.out / "biased"
    save(model, processor, biased)
    console.print(report({"grounded": measure(grounded), "biased": measure(biased)}))


def _tell(console: Console, stage: str, losses: list[float]) -> None:
    console.print(f"{stage}: loss {losses[0]:.3f} at first, {losses[-1]:.3f} at last")


if __name__ == "__main__":
    main()
