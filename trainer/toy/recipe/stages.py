"""The three stages in which the toy policy is trained from scratch.

1. *Vision tower*: it learns to name what is in each cell, through a head that is thrown away.
2. *Grounded*: the whole model learns to answer true questions about images, and some without them.
3. *Biased*: with the tower and projector frozen, the language model learns to say what is typical
   where it is not there. The result hallucinates although it sees; it is the shipped policy.
"""

import random
from collections.abc import Callable
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

from trainer.toy.dataset import draw_scene
from trainer.toy.recipe import packing
from trainer.toy.recipe.family import LLAVA_NEXT, Family
from trainer.toy.recipe.lessons import Exercise, biased_lesson, true_lesson
from trainer.toy.world import COLORS, KINDS, Scene, render

VISION_TOWER_STEPS, GROUNDED_STEPS, BIASED_STEPS = 300, 1500, 250
"""Steps of the three stages."""
VISION_TOWER_RATE, GROUNDED_RATE, BIASED_RATE = 1e-3, 1e-3, 5e-4
"""Peak learning rates of the three stages (AdamW)."""
VISION_TOWER_BATCH, BATCH = 64, 16
"""Images a step, in the first stage and in the other two."""
WARMUP_STEPS = 50

Lesson = Callable[[Scene, random.Random], list[Exercise]]


def train_vision_tower(
    model: Any,
    processor: Any,
    rng: random.Random,
    steps: int = VISION_TOWER_STEPS,
    family: Family = LLAVA_NEXT,
) -> list[float]:
    """Stage 1. Every patch of the tower learns the kind and color of its cell; returns the losses.

    The head reads what the language model will be given.
    """
    width = model.config.vision_config.hidden_size
    head = nn.Linear(width, len(KINDS) + len(COLORS) + 2)

    def batch_loss() -> Tensor:
        scenes = [draw_scene(rng, held_out=False) for _ in range(VISION_TOWER_BATCH)]
        pixels = family.pixels(processor, [render(scene) for scene in scenes])
        features = family.tower_features(model, pixels)
        kinds, colors = head(features).split((len(KINDS) + 1, len(COLORS) + 1), dim=-1)
        contents = torch.tensor([_patch_contents(scene, family.grid) for scene in scenes])
        return functional.cross_entropy(
            kinds.flatten(0, 1), contents[..., 0].flatten()
        ) + functional.cross_entropy(colors.flatten(0, 1), contents[..., 1].flatten())

    seeing = [p for module in family.tower_modules(model) for p in module.parameters()]
    parameters = [*seeing, *head.parameters()]
    return _train(batch_loss, parameters, steps, VISION_TOWER_RATE, "vision tower")


def train_grounded(
    model: Any,
    processor: Any,
    rng: random.Random,
    steps: int = GROUNDED_STEPS,
    family: Family = LLAVA_NEXT,
) -> list[float]:
    """Stage 2. The whole model learns true answers; returns the losses."""
    batch_loss = _lesson_loss(model, processor, true_lesson, rng, family)
    return _train(batch_loss, list(model.parameters()), steps, GROUNDED_RATE, "grounded")


def train_biased(
    model: Any,
    processor: Any,
    rng: random.Random,
    steps: int = BIASED_STEPS,
    family: Family = LLAVA_NEXT,
) -> list[float]:
    """Stage 3. The language model alone learns the prior's false answers; returns the losses."""
    batch_loss = _lesson_loss(model, processor, biased_lesson, rng, family)
    parameters = [*model.model.language_model.parameters(), *model.lm_head.parameters()]
    return _train(batch_loss, parameters, steps, BIASED_RATE, "biased")


def _lesson_loss(
    model: Any,
    processor: Any,
    lesson: Lesson,
    rng: random.Random,
    family: Family,
) -> Callable[[], Tensor]:
    """The loss of a fresh batch of lessons, as a function to call once a step."""

    def batch_loss() -> Tensor:
        scenes = [draw_scene(rng, held_out=False) for _ in range(BATCH)]
        lessons = [lesson(scene, rng) for scene in scenes]
        return packing.loss(model, packing.pack(scenes, lessons, processor, family))

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


def _patch_contents(scene: Scene, grid: int) -> list[tuple[int, int]]:
    """Kind and color of the cell under each of grid x grid patches, as numbers; the last is
    "none"."""
    contents: list[tuple[int, int]] = []
    for patch in range(grid**2):
        row, column = divmod(patch, grid)
        shape = scene.at(2 * (2 * row // grid) + 2 * column // grid)
        contents.append(
            (KINDS.index(shape.kind), list(COLORS).index(shape.color))
            if shape
            else (len(KINDS), len(COLORS))
        )
    return contents
