"""LLaVA-OneVision; the older LLaVAs are in tests/hub_checkpoints.py."""

from pathlib import Path

from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from tests import hub_checkpoints
from tests.families.checkpoints import templates
from tests.families.checkpoints.files import (
    Names,
    described,
    random_tensors,
    save_files,
    save_weights,
)
from tests.families.checkpoints.vocabularies import Layout, save_byte_level

SIDE, PATCH = 56, 14

NAMES: Names = (
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.vision_tower.vision_model.", "vision_tower.vision_model."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.", ""),
)


def llava(folder: Path, *, weights: bool = True) -> Path:
    """LLaVA-1.5."""
    return hub_checkpoints.llava_15(folder, weights=weights)


def llava_next(folder: Path, *, weights: bool = True) -> Path:
    """LLaVA-1.6 on Mistral, whose template is published."""
    return hub_checkpoints.llava_16_mistral(folder, weights=weights)


def llava_onevision(folder: Path, *, weights: bool = True) -> Path:
    """On Qwen2, with SigLIP's tower: the number of image tokens depends on the picture."""
    tokens = save_byte_level(
        folder,
        Layout(
            tokenizer_class="Qwen2Tokenizer",
            eos="<|im_end|>",
            pad="<|endoftext|>",
            behind=("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"),
        ),
    )
    pinpoints = hub_checkpoints.PINPOINTS
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=PATCH,
            vision_use_head=False,
        ),
        text_config=Qwen2Config(
            vocab_size=len(tokens),
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=1024,
            **tokens.special_ids,
        ),
        image_token_index=tokens.id("<image>"),
        video_token_index=tokens.id("<video>"),
        image_grid_pinpoints=pinpoints,
        vision_aspect_ratio="anyres_max_9",
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )
    size = {"height": SIDE, "width": SIDE}
    pictures = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "processor_class": "LlavaOnevisionProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": size,
    }
    save_files(
        folder,
        templates.LLAVA_ONEVISION,
        config=described(config, LlavaOnevisionForConditionalGeneration.__name__),
        generation_config=tokens.special_ids,
        processor_config={
            "image_token": "<image>",
            "num_image_tokens": (SIDE // PATCH) ** 2,
            "processor_class": "LlavaOnevisionProcessor",
            "video_token": "<video>",
            "vision_aspect_ratio": "anyres_max_9",
            "vision_feature_select_strategy": "full",
        },
        preprocessor_config=pictures
        | {
            "do_pad": True,
            "image_grid_pinpoints": pinpoints,
            "image_processor_type": "LlavaOnevisionImageProcessor",
        },
        video_preprocessor_config=pictures
        | {"video_processor_type": "LlavaOnevisionVideoProcessor"},
    )
    if weights:
        save_weights(folder, random_tensors(LlavaOnevisionForConditionalGeneration, config), NAMES)
    return folder
