"""Mistral 3 (Mistral Small 3.1): Pixtral's tower, a token for each square of patches."""

from pathlib import Path

from transformers import Mistral3Config, Mistral3ForConditionalGeneration

from tests.families.checkpoints import templates
from tests.families.checkpoints.files import (
    Names,
    described,
    random_tensors,
    save_files,
    save_weights,
)
from tests.families.checkpoints.vocabularies import LLAMA3_WORDS, Layout, save_byte_level

SIDE, PATCH, MERGED = 112, 14, 2

FIRST = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]"),
    *("[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
)
"""With the numbers that Tekken gives them."""

NAMES: Names = (
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.", ""),
)


def mistral3(folder: Path, *, weights: bool = True) -> Path:
    """Between rows of image tokens stand others."""
    layout = Layout(
        tokenizer_class="PreTrainedTokenizerFast",
        bos="<s>",
        eos="</s>",
        pad="<pad>",
        unk="<unk>",
        adds_bos=True,
        in_front=FIRST,
        words=LLAMA3_WORDS,
    )
    tokens = save_byte_level(folder, layout)
    config = Mistral3Config(
        text_config={
            "model_type": "mistral",
            "vocab_size": len(tokens),
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "max_position_embeddings": 1024,
            "sliding_window": None,
            "tie_word_embeddings": False,
            **tokens.special_ids,
        },
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": PATCH,
        },
        image_token_index=tokens.id("[IMG]"),
        multimodal_projector_bias=False,
        spatial_merge_size=MERGED,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    save_files(
        folder,
        templates.MISTRAL3,
        config=described(config, Mistral3ForConditionalGeneration.__name__),
        generation_config=tokens.special_ids,
        processor_config={
            "image_break_token": "[IMG_BREAK]",
            "image_end_token": "[IMG_END]",
            "image_token": "[IMG]",
            "patch_size": PATCH,
            "processor_class": "PixtralProcessor",
            "spatial_merge_size": MERGED,
        },
        preprocessor_config={
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_processor_type": "PixtralImageProcessor",
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "patch_size": PATCH,
            "processor_class": "PixtralProcessor",
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"longest_edge": SIDE},
        },
    )
    if weights:
        save_weights(folder, random_tensors(Mistral3ForConditionalGeneration, config), NAMES)
    return folder
