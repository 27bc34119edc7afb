"""The toy policy: a LLaVA-NeXT of 1.5 million parameters, its processor, and how it is saved.

The architecture is LLaVA-1.6's own, only smaller: a CLIP tower over 56x56 images in patches of 14,
one pinpoint, so that an image is 36 tokens (16 of the whole image, 16 of its one tile and 4 line
breaks), and a Llama. Geometry after what trains in minutes on two CPU cores (docs/toy.md).
"""

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from service.checkpoints.tensor_names import published_name
from trainer.toy.recipe.tokenizer import BOS_ID, EOS_ID, IMAGE_ID, PAD_ID
from trainer.toy.world import IMAGE_SIZE

PATCH_SIZE = 14
IMAGE_TOKENS = 36
TOWER_GRID = IMAGE_SIZE // PATCH_SIZE
"""Patches of the tower in a row, and in a column."""
WEIGHTS_FILE = "model.safetensors"
CONTEXT_LENGTH = 1024
"""Positions of the language model, in tokens."""


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaNextProcessor:
    """The processor: images to pixel values (2 views, 3, 56, 56), `<image>` to 36 tokens."""
    image_processor = LlavaNextImageProcessor(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_grid_pinpoints=[[IMAGE_SIZE, IMAGE_SIZE]],
    )
    return LlavaNextProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlavaNextForConditionalGeneration:
    """The model with fresh weights, float32. Seed torch first to repeat them."""
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=128,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT_LENGTH,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
    )
    config = LlavaNextConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE_ID,
        image_grid_pinpoints=[[IMAGE_SIZE, IMAGE_SIZE]],
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    model = LlavaNextForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        bos_token_id=BOS_ID, eos_token_id=EOS_ID, pad_token_id=PAD_ID
    )
    return model


def tower_features(model: Any, pixels: dict[str, Tensor]) -> Tensor:
    """What the language model will be given of B whole pictures, before the projector: float
    (B, 16, width)."""
    views = pixels["pixel_values"][:, 0]
    states = model.model.vision_tower(views, output_hidden_states=True).hidden_states
    return states[model.config.vision_feature_layer][:, 1:]


def save(model: PreTrainedModel, processor: Any, folder: Path) -> None:
    """Writes a checkpoint that transformers and vLLM both load: fp16 weights, config, processor.
    Of any family.

    vLLM 0.32 knows the LLaVA's tower as `vision_tower.vision_model.embeddings...`; transformers
    5.19 reads that too, but writes it only for a model that it loaded so, and
    `vision_tower.embeddings...` for any other.
    """
    deepcopy(model).half().save_pretrained(folder)
    processor.save_pretrained(folder)
    file = folder / WEIGHTS_FILE
    if isinstance(model, LlavaNextForConditionalGeneration):
        weights = {published_name(name): part for name, part in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})
    file.chmod(0o644)  # safetensors lets only the owner read


def load(folder: Path) -> tuple[Any, Any]:
    """Reads a checkpoint of any family back, in float32: model and processor.

    Raises ValueError if weights are missing; transformers alone would make them up.
    """
    auto: Any = AutoModelForImageTextToText
    model, found = auto.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    if found["missing_keys"]:
        raise ValueError(f"{folder} lacks weights: {sorted(found['missing_keys'])}")
    processors: Any = AutoProcessor
    return model.eval(), processors.from_pretrained(folder)
