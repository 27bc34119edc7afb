"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5: patches of any picture, positions of three axes."""

from pathlib import Path
from typing import Any

from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from tests.families.checkpoints import templates
from tests.families.checkpoints.files import (
    Names,
    described,
    random_tensors,
    save_files,
    save_weights,
)
from tests.families.checkpoints.vocabularies import Layout, Saved, save_byte_level

QWEN2_TOKENS = Layout(
    tokenizer_class="Qwen2Tokenizer",
    eos="<|im_end|>",
    pad="<|endoftext|>",
    behind=(
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|object_ref_start|>",
        "<|object_ref_end|>",
        "<|box_start|>",
        "<|box_end|>",
        "<|quad_start|>",
        "<|quad_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
    ),
)

OLD_NAMES: Names = (("model.visual.", "visual."), ("model.language_model.", "model."))
"""As Qwen2-VL and Qwen2.5-VL were published."""


def qwen2_vl(folder: Path, *, weights: bool = True) -> Path:
    """Its config.json is flat: the language model's values are at the top."""
    tokens = save_byte_level(folder, QWEN2_TOKENS)
    vision = {
        "depth": 2,
        "embed_dim": 32,
        "hidden_size": 64,
        "in_chans": 3,
        "mlp_ratio": 2,
        "num_heads": 2,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    config = _flat(tokens, "qwen2_vl", "Qwen2VLForConditionalGeneration", vision)
    save_files(folder, templates.QWEN2_VL, config=config, **_files(tokens, "Qwen2VLProcessor"))
    if weights:
        model = random_tensors(Qwen2VLForConditionalGeneration, Qwen2VLConfig(**config))
        save_weights(folder, model, OLD_NAMES)
    return folder


def qwen2_5_vl(folder: Path, *, weights: bool = True) -> Path:
    """The tower looks through windows; its config.json is flat."""
    tokens = save_byte_level(folder, QWEN2_TOKENS)
    vision = {
        "depth": 2,
        "fullatt_block_indexes": [1],
        "hidden_act": "silu",
        "hidden_size": 32,
        "in_chans": 3,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 64,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "temporal_patch_size": 2,
        "tokens_per_second": 2,
        "window_size": 112,
    }
    config = _flat(tokens, "qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", vision)
    save_files(folder, templates.QWEN2_5_VL, config=config, **_files(tokens, "Qwen2_5_VLProcessor"))
    if weights:
        model = random_tensors(Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig(**config))
        save_weights(folder, model, OLD_NAMES)
    return folder


def qwen3_vl(folder: Path, *, weights: bool = True) -> Path:
    """Features of three layers of the tower go into the language model's first ones."""
    tokens = save_byte_level(folder, QWEN2_TOKENS)
    config = Qwen3VLConfig(
        text_config=_text(tokens, num_hidden_layers=4),
        vision_config=_vision3(depth=4, deepstack_visual_indexes=[0, 1, 2]),
        **_image_ids(tokens),
    )
    files = _files(tokens, "Qwen3VLProcessor", patch_size=16, half=0.5)
    architecture = Qwen3VLForConditionalGeneration.__name__
    save_files(folder, templates.QWEN3_VL, config=described(config, architecture), **files)
    if weights:
        save_weights(folder, random_tensors(Qwen3VLForConditionalGeneration, config))
    return folder


def qwen3_5(folder: Path, *, weights: bool = True) -> Path:
    """Every second layer attends, the others are recurrent: gated delta nets."""
    thinking = ("<tool_call>", "</tool_call>", "<think>", "</think>")
    layout = Layout(
        tokenizer_class="Qwen2Tokenizer",
        eos=QWEN2_TOKENS.eos,
        pad=QWEN2_TOKENS.pad,
        behind=(*QWEN2_TOKENS.behind, *thinking),
    )
    tokens = save_byte_level(folder, layout)
    text = _text(
        tokens,
        num_hidden_layers=4,
        layer_types=["linear_attention", "full_attention"] * 2,
        linear_key_head_dim=128,
        linear_value_head_dim=128,
        linear_num_key_heads=1,
        linear_num_value_heads=2,
    )
    text["rope_parameters"] |= {"partial_rotary_factor": 1.0}
    config = Qwen3_5Config(text_config=text, vision_config=_vision3(depth=2), **_image_ids(tokens))
    files = _files(tokens, "Qwen3VLProcessor", patch_size=16, half=0.5)
    architecture = Qwen3_5ForConditionalGeneration.__name__
    save_files(folder, templates.QWEN3_5, config=described(config, architecture), **files)
    if weights:
        save_weights(folder, random_tensors(Qwen3_5ForConditionalGeneration, config))
    return folder


def _flat(tokens: Saved, model_type: str, architecture: str, vision: dict[str, Any]) -> Any:
    return {
        "architectures": [architecture],
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": 64,
        "intermediate_size": 96,
        "max_position_embeddings": 1024,
        "model_type": model_type,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_scaling": {"mrope_section": [4, 6, 6], "type": "mrope"},
        "rope_theta": 1e4,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_sliding_window": False,
        "vocab_size": len(tokens),
        "vision_config": vision,
        **tokens.special_ids,
        **_image_ids(tokens),
    }


def _text(tokens: Saved, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokens),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 1024,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [4, 6, 6],
            "mrope_interleaved": True,
        },
        "tie_word_embeddings": False,
        **tokens.special_ids,
        **more,
    }


def _vision3(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 64,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 64,
        **more,
    }


def _image_ids(tokens: Saved) -> dict[str, int]:
    return {
        "image_token_id": tokens.id("<|image_pad|>"),
        "video_token_id": tokens.id("<|video_pad|>"),
        "vision_start_token_id": tokens.id("<|vision_start|>"),
        "vision_end_token_id": tokens.id("<|vision_end|>"),
    }


def _files(
    tokens: Saved, processor: str, *, patch_size: int = 14, half: float | None = None
) -> dict[str, dict[str, Any]]:
    """`half`: mean and deviation of each channel; null: CLIP's."""
    merged = (2 * patch_size) ** 2
    pictures: dict[str, Any] = {
        "image_mean": [0.48145466, 0.4578275, 0.40821073] if half is None else [half] * 3,
        "image_std": [0.26862954, 0.26130258, 0.27577711] if half is None else [half] * 3,
        "merge_size": 2,
        "patch_size": patch_size,
        "processor_class": processor,
        "temporal_patch_size": 2,
    }
    if half is None:
        pictures |= {"min_pixels": 4 * merged, "max_pixels": 64 * merged}
    else:
        pictures["size"] = {"shortest_edge": 4 * merged, "longest_edge": 64 * merged}
    files = {
        "preprocessor_config": pictures | {"image_processor_type": "Qwen2VLImageProcessor"},
        "generation_config": {
            "do_sample": True,
            "eos_token_id": [tokens.id("<|im_end|>"), tokens.id("<|endoftext|>")],
            "pad_token_id": tokens.id("<|endoftext|>"),
        },
    }
    if half is not None:
        files["video_preprocessor_config"] = {
            **pictures,
            "video_processor_type": "Qwen3VLVideoProcessor",
        }
    return files
