"""What the recipe must know of a model's architecture. It ships LLaVA-NeXT; others show that what
it finds, BDHS among it, is no property of one family."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.toy.recipe import model as llava_next
from trainer.toy.recipe import qwen2_5_vl
from trainer.toy.recipe.tokenizer import build_tokenizer

Pixels = dict[str, Tensor]
"""What an image processor makes of pictures, by the names of the model's `forward`."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture, at the toy's size."""

    name: str
    build_tokenizer: Callable[[], Any]
    build_processor: Callable[[Any], Any]
    """Of a tokenizer."""
    build_model: Callable[[Any], Any]
    """Of a tokenizer. Seed torch first to repeat it."""
    image_tokens: int
    """k."""
    pixel_fields: Sequence[str]
    """Of what the image processor makes, what the model takes."""
    grid: int
    """The tower's features are grid x grid, row by row."""
    tower_modules: Callable[[Any], Sequence[torch.nn.Module]]
    """Of a model: what makes those features."""
    tower_features: Callable[[Any, Pixels], Tensor]
    """Of a model and the pixels of B pictures: float (B, grid², width)."""
    positions: Callable[[Sequence[int]], Tensor]
    """Of the tokens of one sequence, S of them: int64 (axes, S)."""

    def pixels(self, processor: Any, pictures: Sequence[Any]) -> Pixels:
        """What the model is shown of some pictures."""
        processed = processor.image_processor(list(pictures), return_tensors="pt")
        return {name: processed[name] for name in self.pixel_fields}


LLAVA_NEXT = Family(
    name="llava_next",
    build_tokenizer=build_tokenizer,
    build_processor=llava_next.build_processor,
    build_model=llava_next.build_model,
    image_tokens=llava_next.IMAGE_TOKENS,
    pixel_fields=("pixel_values", "image_sizes"),
    grid=llava_next.TOWER_GRID,
    tower_modules=lambda model: [model.model.vision_tower],
    tower_features=llava_next.tower_features,
    positions=lambda ids: torch.arange(len(ids))[None],
)

QWEN2_5_VL = Family(
    name="qwen2_5_vl",
    build_tokenizer=qwen2_5_vl.build_tokenizer,
    build_processor=qwen2_5_vl.build_processor,
    build_model=qwen2_5_vl.build_model,
    image_tokens=qwen2_5_vl.GRID**2,
    pixel_fields=("pixel_values", "image_grid_thw"),
    grid=qwen2_5_vl.GRID,
    tower_modules=lambda model: [model.model.visual],
    tower_features=qwen2_5_vl.tower_features,
    positions=qwen2_5_vl.positions,
)

FAMILIES = {family.name: family for family in (LLAVA_NEXT, QWEN2_5_VL)}
