"""InternVL in both of its layouts: for transformers, and with code of its own. Same weights."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    Qwen2Config,
)

from tests.families.checkpoints import templates
from tests.families.checkpoints.files import (
    Names,
    described,
    published,
    random_tensors,
    save_files,
    save_weights,
)
from tests.families.checkpoints.vocabularies import Layout, Saved, save_byte_level

SIDE, PATCH, TILE_TOKENS, TILES = 56, 14, 4, 6
"""Of a tile, in pixels; its image tokens; and how many tiles a picture has at most."""

MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

NAMES: Names = (
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.", ""),
)

TOWER = "model.vision_tower.embeddings."

CHAT_NAMES: Names = (
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.multi_modal_projector.layer_norm.", "mlp1.0."),
    ("model.multi_modal_projector.linear_1.", "mlp1.1."),
    ("model.multi_modal_projector.linear_2.", "mlp1.3."),
    ("model.vision_tower.embeddings.cls_token", "vision_model.embeddings.class_embedding"),
    (
        "model.vision_tower.embeddings.position_embeddings",
        "vision_model.embeddings.position_embedding",
    ),
    (
        "model.vision_tower.embeddings.patch_embeddings.projection.",
        "vision_model.embeddings.patch_embedding.",
    ),
)

CHAT_LAYER_NAMES = {
    "attention.projection_layer": "attn.proj",
    "layernorm_after": "norm2",
    "layernorm_before": "norm1",
    "lambda_1": "ls1",
    "lambda_2": "ls2",
}
"""Parts of a layer of the tower."""

CODE = Path(__file__).parent / "remote_code"


def internvl(folder: Path, *, weights: bool = True) -> Path:
    """As transformers has it (`-hf`)."""
    tokens = _save_tokenizer(folder)
    config = _config(tokens)
    size = {"height": SIDE, "width": SIDE}
    pictures = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": MEAN,
        "image_std": DEVIATION,
        "processor_class": "InternVLProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": size,
    }
    save_files(
        folder,
        templates.INTERNVL,
        config=described(config, InternVLForConditionalGeneration.__name__),
        generation_config=tokens.special_ids,
        processor_config={
            "image_seq_length": TILE_TOKENS,
            "processor_class": "InternVLProcessor",
        },
        preprocessor_config=pictures
        | {
            "crop_to_patches": True,
            "image_processor_type": "GotOcr2ImageProcessor",
            "max_patches": TILES,
            "min_patches": 1,
        },
        video_preprocessor_config=pictures | {"video_processor_type": "InternVLVideoProcessor"},
    )
    if weights:
        save_weights(folder, _tensors(tokens), NAMES)
    return folder


def internvl_chat(folder: Path, *, weights: bool = True) -> Path:
    """With code of its own: transformers has no model of it, vLLM has. No token is special to say
    where an image goes."""
    tokens = _save_tokenizer(folder)
    vision = {
        "architectures": ["InternVisionModel"],
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "drop_path_rate": 0.0,
        "hidden_act": "gelu",
        "hidden_size": 32,
        "image_size": SIDE,
        "initializer_factor": 1.0,
        "intermediate_size": 64,
        "layer_norm_eps": 1e-6,
        "model_type": "intern_vit_6b",
        "norm_type": "layer_norm",
        "num_attention_heads": 2,
        "num_channels": 3,
        "num_hidden_layers": 2,
        "patch_size": PATCH,
        "qk_normalization": False,
        "qkv_bias": True,
        "use_flash_attn": False,
    }
    config = {
        "architectures": ["InternVLChatModel"],
        "auto_map": {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"},
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": SIDE,
        "llm_config": _text(tokens)
        | {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
        "max_dynamic_patch": TILES,
        "min_dynamic_patch": 1,
        "model_type": "internvl_chat",
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internvl2_5",
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_thumbnail": True,
        "vision_config": vision,
    }
    save_files(
        folder,
        templates.INTERNVL_CHAT,
        config=config,
        generation_config=tokens.special_ids,
        preprocessor_config={
            "crop_size": SIDE,
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "image_mean": MEAN,
            "image_std": DEVIATION,
            "resample": 3,
            "size": SIDE,
        },
    )
    for file in CODE.glob("configuration_*.py"):
        shutil.copy(file, folder)
    if weights:
        save_weights(folder, _chat_tensors(_tensors(tokens)))
    return folder


def _save_tokenizer(folder: Path) -> Saved:
    named = {
        "context_image_token": "<IMG_CONTEXT>",
        "end_image_token": "</img>",
        "start_image_token": "<img>",
        "video_token": "<video>",
    }
    places = ("<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
    return save_byte_level(
        folder,
        Layout(
            tokenizer_class="Qwen2Tokenizer",
            eos="<|im_end|>",
            pad="<|endoftext|>",
            behind=("<|endoftext|>", "<|im_start|>", "<|im_end|>", *named.values(), *places),
            named=named,
        ),
    )


def _text(tokens: Saved) -> dict[str, Any]:
    return {
        "vocab_size": len(tokens),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        **tokens.special_ids,
    }


def _vision() -> InternVLVisionConfig:
    return InternVLVisionConfig(
        attention_bias=True,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=[SIDE, SIDE],
        patch_size=[PATCH, PATCH],
        use_qk_norm=False,
    )


def _config(tokens: Saved) -> InternVLConfig:
    return InternVLConfig(
        vision_config=_vision(),
        text_config=Qwen2Config(**_text(tokens)),
        image_token_id=tokens.id("<IMG_CONTEXT>"),
        image_seq_length=TILE_TOKENS,
        downsample_ratio=0.5,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )


def _tensors(tokens: Saved) -> dict[str, torch.Tensor]:
    return random_tensors(InternVLForConditionalGeneration, _config(tokens))


def _chat_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By the names of the other layout, in which queries, keys and values are one tensor."""
    found: dict[str, torch.Tensor] = {}
    layer = "model.vision_tower.encoder.layer."
    for name, tensor in tensors.items():
        if not name.startswith(layer):
            continue
        number, part = name.removeprefix(layer).split(".", 1)
        if part.startswith(("attention.k_proj", "attention.v_proj")):
            continue
        if part.startswith("attention.q_proj"):
            tensor = torch.cat([tensors[name.replace("q_proj", f"{x}_proj")] for x in "qkv"])
            part = part.replace("attention.q_proj", "attn.qkv")
        for ours, theirs in CHAT_LAYER_NAMES.items():
            part = part.replace(ours, theirs)
        found[f"vision_model.encoder.layers.{number}.{part}"] = tensor
    others = {name: tensor for name, tensor in tensors.items() if not name.startswith(layer)}
    return found | {published(name, CHAT_NAMES): tensor for name, tensor in others.items()}
