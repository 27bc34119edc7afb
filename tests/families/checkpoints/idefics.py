"""Idefics3 and SmolVLM: tiles of a picture, and the whole of it, each behind its name."""

from pathlib import Path
from typing import Any

from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from tests.families.checkpoints import templates
from tests.families.checkpoints.files import described, random_tensors, save_files, save_weights
from tests.families.checkpoints.vocabularies import LLAMA3_WORDS, Layout, Saved, save_byte_level

SIDE, PATCH, TILE_TOKENS = 56, 14, 4
"""Of a tile, in pixels; and its image tokens."""

ENDS = ("<fake_token_around_image>", "<image>", "<end_of_utterance>")
ROWS = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))


def idefics3(folder: Path, *, weights: bool = True) -> Path:
    """On Llama 3. Names of tiles are text, of several tokens."""
    layout = Layout(
        tokenizer_class="PreTrainedTokenizerFast",
        bos="<|begin_of_text|>",
        eos="<end_of_utterance>",
        pad="<|end_of_text|>",
        adds_bos=True,
        behind=("<|begin_of_text|>", "<|end_of_text|>", *ENDS),
        words=LLAMA3_WORDS,
    )
    tokens = save_byte_level(folder, layout)
    config = Idefics3Config(vision_config=_vision("idefics3_vision"), **_common(tokens))
    _save(folder, tokens, templates.IDEFICS3, config, Idefics3ForConditionalGeneration)
    if weights:
        save_weights(folder, random_tensors(Idefics3ForConditionalGeneration, config))
    return folder


def smolvlm(folder: Path, *, weights: bool = True) -> Path:
    """On SmolLM2. Names of tiles are tokens."""
    layout = Layout(
        tokenizer_class="GPT2Tokenizer",
        bos="<|im_start|>",
        eos="<end_of_utterance>",
        pad="<|im_end|>",
        unk="<|endoftext|>",
        in_front=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        behind=("<global-img>", *ROWS, *ENDS),
        words=LLAMA3_WORDS,
        named={
            "end_of_utterance_token": ENDS[2],
            "fake_image_token": ENDS[0],
            "global_image_token": "<global-img>",
            "image_token": ENDS[1],
        },
    )
    tokens = save_byte_level(folder, layout)
    config = SmolVLMConfig(vision_config=_vision("smolvlm_vision"), **_common(tokens))
    _save(folder, tokens, templates.SMOLVLM, config, SmolVLMForConditionalGeneration)
    if weights:
        save_weights(folder, random_tensors(SmolVLMForConditionalGeneration, config))
    return folder


def _vision(model_type: str) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "image_size": SIDE,
        "intermediate_size": 64,
        "model_type": model_type,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "patch_size": PATCH,
    }


def _common(tokens: Saved) -> dict[str, Any]:
    return {
        "image_token_id": tokens.id("<image>"),
        "pad_token_id": tokens.special_ids["pad_token_id"],
        "scale_factor": 2,
        "text_config": {
            "model_type": "llama",
            "vocab_size": len(tokens),
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 1024,
            "rope_theta": 1e4,
            **tokens.special_ids,
        },
        "tie_word_embeddings": False,
    }


def _save(folder: Path, tokens: Saved, template: str, config: Any, model_class: type) -> None:
    family = model_class.__name__.removesuffix("ForConditionalGeneration")
    processor = {"image_seq_len": TILE_TOKENS, "processor_class": f"{family}Processor"}
    pictures: dict[str, Any] = {
        "do_convert_rgb": True,
        "do_image_splitting": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5] * 3,
        "image_processor_type": f"{family}ImageProcessor",
        "image_std": [0.5] * 3,
        "max_image_size": {"longest_edge": SIDE},
        "resample": 1,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": 2 * SIDE},
    }
    if family == "SmolVLM":
        pictures["video_sampling"] = {
            "fps": 1,
            "max_frames": 64,
            "video_size": {"longest_edge": SIDE},
        }
    save_files(
        folder,
        template,
        config=described(config, model_class.__name__),
        generation_config=tokens.special_ids,
        preprocessor_config=pictures | {"processor_class": f"{family}Processor"},
        processor_config=processor,
    )
