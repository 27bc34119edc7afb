"""Tiny checkpoints of families that are not proven, as transformers saves them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as t

from tests.families.checkpoints.files import SCALE
from tests.families.checkpoints.vocabularies import Layout, save_byte_level

TEMPLATE = (
    "{% for message in messages %}{{ message.role }}:"
    "{% for part in message.content %}{{ 'IMAGE' if part.type == 'image' else part.text }}"
    "{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]}
GLM = ("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>")
QWEN = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


class Vocabulary:
    """A tokenizer with a family's special tokens."""

    def __init__(self, folder: Path, *special: str, **named: str) -> None:
        layout = Layout(
            tokenizer_class="PreTrainedTokenizerFast",
            bos="<s>",
            eos="</s>",
            pad="<pad>",
            in_front=("<pad>", "<s>", "</s>"),
            behind=(*special, *named.values()),
            named=named,
        )
        save_byte_level(folder, layout)
        self.tokenizer: Any = t.PreTrainedTokenizerFast.from_pretrained(folder)
        self.ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

    def id(self, token: str) -> int:
        return self.tokenizer.get_vocab()[token]

    def text(self, **more: Any) -> dict[str, Any]:
        return {**TEXT, "vocab_size": len(self.tokenizer), **self.ids, **more}


def _save(folder: Path, model_class: Any, config: Any, processor: Any, image: str) -> Path:
    torch.manual_seed(0)
    model = model_class(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                if not parameter.any():
                    parameter.normal_(0, 0.2)
                parameter.mul_(SCALE)
    model.generation_config = t.GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model.save_pretrained(folder)
    processor.chat_template = TEMPLATE.replace("IMAGE", image)
    processor.save_pretrained(folder)
    return folder


def _siglip(**more: Any) -> dict[str, Any]:
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
        "vision_use_head": False,
        **more,
    }


def _glm(folder: Path, kind: str, **text: Any) -> Path:
    words = Vocabulary(folder, *GLM, image_token="<|image|>", video_token="<|video|>")
    rope = {**MROPE, "mrope_section": [2, 3, 3], "partial_rotary_factor": 0.5}
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_heads": 2,
        "out_hidden_size": 64,
        "image_size": 112,
        "patch_size": 14,
    }
    ids = {
        f"{name}_token_id": words.id(token)
        for name, token in {
            "image": "<|image|>",
            "video": "<|video|>",
            "image_start": GLM[0],
            "image_end": GLM[1],
            "video_start": GLM[2],
            "video_end": GLM[3],
        }.items()
    }
    config = getattr(t, f"{kind}Config")(
        text_config=words.text(rope_parameters=rope, partial_rotary_factor=0.5, **text),
        vision_config=vision,
        **ids,
    )
    size = {"shortest_edge": 28 * 28 * 4, "longest_edge": 28 * 28 * 64}
    processor = t.Glm4vProcessor(
        t.Glm4vImageProcessor(size=size), words.tokenizer, t.Glm4vVideoProcessor()
    )
    image = f"{GLM[0]}<|image|>{GLM[1]}"
    return _save(folder, getattr(t, f"{kind}ForConditionalGeneration"), config, processor, image)


def glm4v(folder: Path) -> Path:
    return _glm(folder, "Glm4v")


def glm_ocr(folder: Path) -> Path:
    return _glm(folder, "GlmOcr")


def glm4v_moe(folder: Path) -> Path:
    return _glm(
        folder,
        "Glm4vMoe",
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        n_shared_experts=1,
        first_k_dense_replace=1,
        n_group=1,
        topk_group=1,
        use_qk_norm=False,
    )


def _qwen(folder: Path, kind: str, processor: Any, image_processor: Any, **parts: Any) -> Path:
    words = Vocabulary(folder, *QWEN)
    config = getattr(t, f"{kind}Config")(
        text_config=words.text(**parts.pop("text")),
        vision_config=parts.pop("vision"),
        image_token_id=words.id("<|image_pad|>"),
        video_token_id=words.id("<|video_pad|>"),
        vision_start_token_id=words.id("<|vision_start|>"),
        vision_end_token_id=words.id("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    made = processor(image_processor, words.tokenizer, parts.pop("video"))
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    return _save(folder, getattr(t, f"{kind}ForConditionalGeneration"), config, made, image)


def qwen3_vl_moe(folder: Path) -> Path:
    size = {"shortest_edge": 32 * 32 * 4, "longest_edge": 32 * 32 * 64}
    return _qwen(
        folder,
        "Qwen3VLMoe",
        t.Qwen3VLProcessor,
        t.Qwen2VLImageProcessor(patch_size=16, size=size),
        video=t.Qwen3VLVideoProcessor(),
        text={
            "rope_parameters": {**MROPE, "mrope_interleaved": True},
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
        },
        vision={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_heads": 2,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
    )


def exaone4_5(folder: Path) -> Path:
    size = {"shortest_edge": 28 * 28 * 4, "longest_edge": 28 * 28 * 64}
    return _qwen(
        folder,
        "Exaone4_5_",
        t.Exaone4_5_Processor,
        t.Qwen2VLImageProcessor(size=size),
        video=t.Qwen2VLVideoProcessor(),
        text={"sliding_window": 4096, "layer_types": ["sliding_attention", "full_attention"]},
        vision={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_heads": 2,
            "num_key_value_heads": 1,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
        },
    )


def cohere2_vision(folder: Path) -> Path:
    named = {
        "image_token": "<|IMG_PATCH|>",
        "boi_token": "<|START_OF_IMG|>",
        "eoi_token": "<|END_OF_IMG|>",
        "img_line_break_token": "<|IMG_LINE_BREAK|>",
    }
    words = Vocabulary(folder, **named)
    for name, token in named.items():
        setattr(words.tokenizer, name, token)
        setattr(words.tokenizer, f"{name}_id", words.id(token))
    config = t.Cohere2VisionConfig(
        vision_config=_siglip(),
        text_config={"model_type": "cohere2", **words.text(sliding_window=4096)},
        image_token_id=words.id(named["image_token"]),
        downsample_factor=2,
        alignment_intermediate_size=64,
    )
    size = {"height": 56, "width": 56}
    # What it calls the size of a patch is how many tokens a tile has in a row.
    pictures = t.Cohere2VisionImageProcessor(size=size, max_patches=4, patch_size=2)
    processor = t.Cohere2VisionProcessor(pictures, words.tokenizer)
    model = t.Cohere2VisionForConditionalGeneration
    return _save(folder, model, config, processor, named["image_token"])


def paligemma(folder: Path) -> Path:
    words = Vocabulary(folder, "\n", image_token="<image>")
    config = t.PaliGemmaConfig(
        vision_config=_siglip(projection_dim=64),
        text_config={"model_type": "gemma", **words.text()},
        image_token_index=words.id("<image>"),
        projection_dim=64,
        hidden_size=64,
    )
    pictures = t.SiglipImageProcessor(size={"height": 56, "width": 56})
    pictures.image_seq_length = 16
    processor = t.PaliGemmaProcessor(pictures, words.tokenizer)
    return _save(folder, t.PaliGemmaForConditionalGeneration, config, processor, "<image>")


def paddleocr_vl(folder: Path) -> Path:
    start, end = "<|IMAGE_START|>", "<|IMAGE_END|>"
    words = Vocabulary(folder, start, end, image_token="<|IMAGE_PLACEHOLDER|>")
    config = t.PaddleOCRVLConfig(
        text_config=words.text(rope_parameters=MROPE),
        vision_config={
            key: value
            for key, value in _siglip().items()
            if key not in ("model_type", "vision_use_head")
        },
        image_token_id=words.id("<|IMAGE_PLACEHOLDER|>"),
        video_token_id=words.id(end),
        vision_start_token_id=words.id(start),
        vision_end_token_id=words.id(end),
    )
    pictures = t.PaddleOCRVLImageProcessor(min_pixels=28 * 28 * 4, max_pixels=28 * 28 * 64)
    processor = t.PaddleOCRVLProcessor(pictures, words.tokenizer)
    image = f"{start}<|IMAGE_PLACEHOLDER|>{end}"
    return _save(folder, t.PaddleOCRVLForConditionalGeneration, config, processor, image)


def lfm2_vl(folder: Path) -> Path:
    named = {"image_token": "<image>", "image_start_token": "<|image_start|>"}
    named |= {"image_end_token": "<|image_end|>", "image_thumbnail": "<|img_thumbnail|>"}
    words = Vocabulary(folder, **named)
    for name, token in named.items():
        setattr(words.tokenizer, f"{name}_id", words.id(token))
    config = t.Lfm2VlConfig(
        vision_config=_siglip(model_type="siglip2_vision_model", num_patches=16),
        text_config={
            "model_type": "lfm2",
            **words.text(layer_types=["conv", "full_attention"], block_ff_dim=96, conv_dim=64),
        },
        image_token_id=words.id("<image>"),
        projector_hidden_size=64,
    )
    pictures = t.Lfm2VlImageProcessor(encoder_patch_size=14, tile_size=56, max_image_tokens=16)
    processor = t.Lfm2VlProcessor(pictures, words.tokenizer)
    return _save(folder, t.Lfm2VlForConditionalGeneration, config, processor, "<image>")


def light_on_ocr(folder: Path) -> Path:
    named = {"image_token": "<|image_pad|>", "image_break_token": "<|vision_pad|>"}
    named |= {"image_end_token": "<|vision_end|>"}
    words = Vocabulary(folder, **named)
    config = t.LightOnOcrConfig(
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 112,
            "patch_size": 14,
        },
        text_config={"model_type": "qwen3", **words.text()},
        image_token_id=words.id("<|image_pad|>"),
    )
    pictures = t.PixtralImageProcessor(
        size={"longest_edge": 112}, patch_size={"height": 14, "width": 14}
    )
    processor = t.LightOnOcrProcessor(pictures, words.tokenizer, patch_size=14)
    model = t.LightOnOcrForConditionalGeneration
    _save(folder, model, config, processor, "<|image_pad|>")
    config_file = folder / "config.json"  # transformers writes the name in other letters
    config_file.write_text(config_file.read_text().replace("LightOnOcrFor", "LightOnOCRFor"))
    return folder


def llama4(folder: Path) -> Path:
    named = {"image_token": "<|image|>", "fake_image_token": "<|image_soft|>"}
    tiles = ("<|patch|>", "<|tile_x_separator|>", "<|tile_y_separator|>")
    words = Vocabulary(folder, *tiles, "<|image_start|>", "<|image_end|>", **named)
    config = t.Llama4Config(
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
            "vision_output_dim": 64,
            "projector_input_dim": 64,
            "projector_output_dim": 64,
        },
        text_config=words.text(
            intermediate_size_mlp=96, num_local_experts=2, interleave_moe_layer_step=1
        ),
        image_token_index=words.id("<|patch|>"),
        boi_token_index=words.id("<|image_start|>"),
        eoi_token_index=words.id("<|image_end|>"),
    )
    pictures = t.Llama4ImageProcessor(size={"height": 56, "width": 56}, max_patches=4)
    processor = t.Llama4Processor(
        pictures, words.tokenizer, patch_size=14, fake_image_token="<|image|>"
    )
    return _save(folder, t.Llama4ForConditionalGeneration, config, processor, "<|image|>")


UNPROVEN: dict[str, Callable[[Path], Path]] = {
    "Glm4vForConditionalGeneration": glm4v,
    "GlmOcrForConditionalGeneration": glm_ocr,
    "Exaone4_5_ForConditionalGeneration": exaone4_5,
    "Cohere2VisionForConditionalGeneration": cohere2_vision,
    "PaliGemmaForConditionalGeneration": paligemma,
    "PaddleOCRVLForConditionalGeneration": paddleocr_vl,
    "Glm4vMoeForConditionalGeneration": glm4v_moe,
    "Llama4ForConditionalGeneration": llama4,
    "Qwen3VLMoeForConditionalGeneration": qwen3_vl_moe,
    "LightOnOCRForConditionalGeneration": light_on_ocr,
    "Lfm2VlForConditionalGeneration": lfm2_vl,
}
"""By architecture."""
