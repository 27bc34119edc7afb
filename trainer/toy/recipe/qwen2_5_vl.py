"""A Qwen2.5-VL of 2 million parameters, which the recipe trains as it trains the toy policy.

The architecture is Qwen2.5-VL's own, only smaller: the tower looks through windows in every second
layer, its patches are merged in squares of four, and positions have three axes (M-RoPE). The toy's
pictures are scaled up to 168x168, so that one is 36 tokens, as the LLaVA's.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from trainer.toy.recipe import tokenizer as toy_tokenizer
from trainer.toy.recipe.model import CONTEXT_LENGTH
from trainer.toy.recipe.tokenizer import BOS_ID, EOS_ID, IMAGE_ID, PAD_ID

PATCH_SIZE, MERGED = 14, 2
"""Pixels of a patch's side; patches of the side of a square that is merged into one token."""
GRID = 6
"""Image tokens in a row, and in a column."""
SIDE = GRID * MERGED * PATCH_SIZE
VIDEO = "<video>"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The toy's, with a token for videos, which Qwen2.5-VL's processor asks for."""
    return toy_tokenizer.build_tokenizer(video_token=VIDEO)


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLProcessor:
    """The processor: images to patches (144, 1176), `<image>` to 36 tokens."""
    size = {"shortest_edge": SIDE**2, "longest_edge": SIDE**2}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=tokenizer.chat_template,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    """The model with fresh weights, float32. Seed torch first to repeat them."""
    width = 128
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 4,
            "hidden_size": width,
            "intermediate_size": 256,
            "num_heads": 4,
            "out_hidden_size": width,
            "patch_size": PATCH_SIZE,
            "spatial_merge_size": MERGED,
            "window_size": 6 * PATCH_SIZE,
            "fullatt_block_indexes": [1, 3],
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": width,
            "intermediate_size": 320,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": CONTEXT_LENGTH,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [4, 6, 6],
            },
            "bos_token_id": BOS_ID,
            "eos_token_id": EOS_ID,
            "pad_token_id": PAD_ID,
        },
        image_token_id=IMAGE_ID,
        video_token_id=tokenizer.get_vocab()[VIDEO],
        vision_start_token_id=BOS_ID,
        vision_end_token_id=EOS_ID,
        tie_word_embeddings=False,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        bos_token_id=BOS_ID, eos_token_id=EOS_ID, pad_token_id=PAD_ID
    )
    return model


def tower_features(model: Any, pixels: dict[str, Tensor]) -> Tensor:
    """What the tower makes of B pictures, merged: float (B, 36, width)."""
    found = model.model.get_image_features(**pixels, return_dict=True).pooler_output
    return torch.stack(list(found))


def positions(ids: Sequence[int]) -> Tensor:
    """Int64 (3, S): time, height and width of each token; text counts on behind the image."""
    if IMAGE_ID not in ids:
        return torch.arange(len(ids)).expand(3, -1)
    first = ids.index(IMAGE_ID)
    cell = torch.arange(GRID)
    image = torch.stack(
        [
            torch.zeros(GRID**2, dtype=torch.long),
            cell.repeat_interleave(GRID),
            cell.repeat(GRID),
        ]
    )
    behind = torch.arange(len(ids) - first - GRID**2) + GRID
    return torch.cat(
        [
            torch.arange(first).expand(3, -1),
            first + image,
            first + behind.expand(3, -1),
        ],
        dim=1,
    )
