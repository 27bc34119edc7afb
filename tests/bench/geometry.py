"""Checkpoints and requests for the benchmarks of BDHS."""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from service.client import image_data
from service.schemas import BdhsRequest
from tests.families.checkpoints.qwen import QWEN2_TOKENS
from tests.families.checkpoints.templates import QWEN2_5_VL
from tests.families.checkpoints.vocabularies import save_byte_level
from trainer.toy import CHECKPOINT
from trainer.toy.dataset import examples
from trainer.toy.recipe.tokenizer import IMAGE, build_tokenizer

SIDE, PATCH = 336, 14
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
"""LLaVA-1.6's."""

REFERENCE = (
    "There is a red circle in the top left. There is a blue square in the bottom right. "
    "There is a green triangle in the top right. There is a yellow circle in the bottom left. "
)


@dataclass(frozen=True)
class Geometry:
    """A policy, and the work it is given."""

    name: str
    model: Path
    max_tokens: int
    """New tokens a sentence, at most."""
    settings: dict[str, object]
    """Of the requests, beside the image and the reference."""
    real: bool
    family: Literal["llava_next", "qwen2_5_vl"] = "llava_next"
    size: tuple[int, int] = (672, 672)
    """Width and height of its pictures, pixels, of the real geometries."""
    threads: int | None = None
    """With which transformers is fastest; None: as many as there are cores."""

    def requests(
        self,
        count: int,
        first: int = 0,
        *,
        pictures: int | None = None,
        size: tuple[int, int] | None = None,
        **settings: object,
    ) -> list[BdhsRequest]:
        """As many requests, each with an image of its own; `first` gives other ones. For the real
        geometry: with the pictures of another `first`, of another size."""
        number = first if pictures is None else pictures
        make = (
            _real_examples(number, size or self.size) if self.real else _toy_examples(first, count)
        )
        body = {"max_tokens": self.max_tokens, **self.settings, **settings}
        return [
            BdhsRequest.model_validate(
                {"images": [image_data(image)], "reference": reference, "seed": first + i}
                | {"prompt": prompt, **body}
            )
            for i, (image, prompt, reference) in zip(range(count), make, strict=False)
        ]


def toy() -> Geometry:
    """The model that is shipped: 36 image tokens."""
    return Geometry("toy", Path(CHECKPOINT), 48, {"rho": 0.99}, real=False, threads=1)


def real(folder: Path) -> Geometry:
    """LLaVA-1.6's image geometry, up to 2,880 tokens, on a small tower and language model."""
    tokenizer = build_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=128,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaNextConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_grid_pinpoints=PINPOINTS,
        image_seq_length=(SIDE // PATCH) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = LlavaNextForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    LlavaNextProcessor(
        LlavaNextImageProcessor(
            size={"shortest_edge": SIDE},
            crop_size={"height": SIDE, "width": SIDE},
            image_grid_pinpoints=PINPOINTS,
        ),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    ).save_pretrained(folder)
    return Geometry("real", folder, 24, {"rho": 0.99}, real=True)


def qwen2_5_vl(folder: Path) -> Geometry:
    """Qwen2.5-VL's image geometry: a picture of 1,280 x 960 pixels is some 1,500 tokens after
    merging. On a small tower and language model."""
    save_byte_level(folder, QWEN2_TOKENS)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 4,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_heads": 4,
            "out_hidden_size": 384,
            "fullatt_block_indexes": [3],
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 384,
            "intermediate_size": 1024,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
            "num_key_value_heads": 6,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [8, 12, 12],
            },
            "bos_token_id": ids("<|endoftext|>"),
            "eos_token_id": ids("<|im_end|>"),
            "pad_token_id": ids("<|endoftext|>"),
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(), tokenizer, Qwen2VLVideoProcessor(), chat_template=QWEN2_5_VL
    ).save_pretrained(folder)
    return Geometry(
        "qwen2_5_vl", folder, 24, {"rho": 0.99}, real=True, family="qwen2_5_vl", size=(1280, 960)
    )


def picture(number: int, width: int, height: int) -> bytes:
    """A smooth picture, PNG, another for each number."""
    generator = torch.Generator().manual_seed(number)
    coarse = torch.rand(1, 3, 6, 6, generator=generator)
    pixels = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    array = (pixels[0].permute(1, 2, 0) * 255).byte().numpy()
    out = BytesIO()
    Image.fromarray(array).save(out, "PNG", compress_level=1)
    return out.getvalue()


def _real_examples(first: int, size: tuple[int, int]) -> Iterator[tuple[bytes, str, str]]:
    number = first
    while True:
        yield picture(number, *size), "Describe the image.", REFERENCE
        number += 1


def _toy_examples(first: int, count: int) -> Iterator[tuple[bytes, str, str]]:
    for item in examples(count, kinds=("caption",), seed=first):
        out = BytesIO()
        item.image().save(out, "PNG")
        yield out.getvalue(), item.prompt, item.reference
