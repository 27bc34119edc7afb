"""Gemma 3 and Gemma 4: image tokens attend to each other, layers look through windows."""

from pathlib import Path

from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
)

from tests.families.checkpoints import templates
from tests.families.checkpoints.files import (
    Names,
    described,
    random_tensors,
    save_files,
    save_weights,
)
from tests.families.checkpoints.vocabularies import Layout, Saved, save_gemma

SIDE, PATCH, GEMMA3_TOKENS = 56, 14, 4
"""Of Gemma 3's view, in pixels; and of its image tokens, for any picture."""

GEMMA4_TOKENS = 70
"""At most, for a picture; it is the fewest that its processor takes."""

FIRST = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
UNUSED = tuple(f"<unused{i}>" for i in range(100))

GEMMA3_NAMES: Names = (
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.vision_model.", "vision_tower.vision_model."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.", ""),
)


def gemma3(folder: Path, *, weights: bool = True) -> Path:
    """A template writes `<start_of_image>`; the features go onto other tokens."""
    named = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    tokens = save_gemma(
        folder,
        Layout(
            tokenizer_class="GemmaTokenizer",
            bos="<bos>",
            eos="<eos>",
            pad="<pad>",
            unk="<unk>",
            adds_bos=True,
            in_front=(*FIRST, *UNUSED, "<start_of_turn>", "<end_of_turn>"),
            behind=tuple(named.values()),
            named=named,
        ),
    )
    config = Gemma3Config(
        text_config={
            "vocab_size": len(tokens),
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "max_position_embeddings": 1024,
            "sliding_window": 512,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            **tokens.special_ids,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": PATCH,
            "vision_use_head": False,
        },
        mm_tokens_per_image=GEMMA3_TOKENS,
        boi_token_index=tokens.id(named["boi_token"]),
        eoi_token_index=tokens.id(named["eoi_token"]),
        image_token_index=tokens.id(named["image_token"]),
        eos_token_id=[tokens.id("<eos>"), tokens.id("<end_of_turn>")],
    )
    processor = {"image_seq_length": GEMMA3_TOKENS, "processor_class": "Gemma3Processor"}
    save_files(
        folder,
        templates.GEMMA3,
        config=described(config, Gemma3ForConditionalGeneration.__name__),
        generation_config=_generation(tokens, "<end_of_turn>"),
        processor_config=processor,
        preprocessor_config={
            "do_normalize": True,
            "do_pan_and_scan": None,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5] * 3,
            "image_processor_type": "Gemma3ImageProcessor",
            "image_std": [0.5] * 3,
            "resample": 2,
            "rescale_factor": 1 / 255,
            "size": {"height": SIDE, "width": SIDE},
            **processor,
        },
    )
    if weights:
        save_weights(folder, random_tensors(Gemma3ForConditionalGeneration, config), GEMMA3_NAMES)
    return folder


def gemma4(folder: Path, *, weights: bool = True) -> Path:
    """The number of image tokens depends on the picture; each layer has an embedding of each token,
    too."""
    named = {
        "audio_token": "<|audio|>",
        "boa_token": "<|audio>",
        "boi_token": "<|image>",
        "eoa_token": "<audio|>",
        "eoi_token": "<image|>",
        "image_token": "<|image|>",
    }
    tokens = save_gemma(
        folder,
        Layout(
            tokenizer_class="GemmaTokenizer",
            bos="<bos>",
            eos="<eos>",
            pad="<pad>",
            unk="<unk>",
            adds_bos=True,
            in_front=(*FIRST, *UNUSED, "<|turn>", "<turn|>"),
            behind=("<|channel>", "<channel|>", "<|think|>", *named.values(), "<|video|>"),
            named=named,
        ),
    )
    rope = {"rope_type": "default", "rope_theta": 1e4}
    config = Gemma4Config(
        text_config={
            "vocab_size": len(tokens),
            "vocab_size_per_layer_input": len(tokens),
            "hidden_size": 64,
            "hidden_size_per_layer_input": 16,
            "intermediate_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "global_head_dim": 32,
            "max_position_embeddings": 1024,
            "sliding_window": 512,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "final_logit_softcapping": 30.0,
            "use_bidirectional_attention": "vision",
            "rope_parameters": {"sliding_attention": rope, "full_attention": rope},
            **tokens.special_ids,
        },
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "patch_size": 8,
            "pooling_kernel_size": 2,
            "position_embedding_size": 256,
            "default_output_length": GEMMA4_TOKENS,
        },
        audio_config=None,
        audio_token_id=tokens.id(named["audio_token"]),
        boa_token_id=tokens.id(named["boa_token"]),
        boi_token_id=tokens.id(named["boi_token"]),
        eoa_token_index=tokens.id(named["eoa_token"]),
        eoi_token_id=tokens.id(named["eoi_token"]),
        image_token_id=tokens.id(named["image_token"]),
        video_token_id=tokens.id("<|video|>"),
        eos_token_id=[tokens.id("<eos>"), tokens.id("<turn|>")],
    )
    pictures = {"patch_size": 8, "pooling_kernel_size": 2, "max_soft_tokens": GEMMA4_TOKENS}
    save_files(
        folder,
        templates.GEMMA4,
        config=described(config, Gemma4ForConditionalGeneration.__name__),
        generation_config=_generation(tokens, "<turn|>"),
        processor_config={
            "processor_class": "Gemma4Processor",
            "image_seq_length": GEMMA4_TOKENS,
            "feature_extractor": {"feature_extractor_type": "Gemma4AudioFeatureExtractor"},
            "image_processor": {"image_processor_type": "Gemma4ImageProcessor", **pictures},
            "video_processor": {"video_processor_type": "Gemma4VideoProcessor", **pictures},
        },
    )
    if weights:
        save_weights(folder, random_tensors(Gemma4ForConditionalGeneration, config))
    return folder


def _generation(tokens: Saved, end: str) -> dict[str, object]:
    return {
        "bos_token_id": tokens.id("<bos>"),
        "do_sample": True,
        "eos_token_id": [tokens.id("<eos>"), tokens.id(end)],
        "pad_token_id": tokens.id("<pad>"),
    }
