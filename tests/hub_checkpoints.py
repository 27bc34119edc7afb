"""Checkpoint folders as the hub has them, made without a hub: files, names, tokenizer and templates
are those of published LLaVA checkpoints, the weights tiny and random.

The tokenizer is Mistral's first SentencePiece model (Llama's vocabulary has its shape), which
mistral_common carries, with LLaVA's two tokens behind it.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mistral_common
import torch
import trl
from huggingface_hub import save_torch_state_dict
from tokenizers import normalizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

SIDE, PATCH = 56, 14
"""Of the CLIP tower's view, in pixels: 16 image tokens."""

PINPOINTS = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]

IMAGE, PAD = 32000, 32001
"""Ids of `<image>` and `<pad>`."""

TemplateLayout = Literal["jinja", "additional", "processor", "tokenizer", "named", "none"]
"""Where the chat template is: `chat_template.jinja`; the same with another one, `other`, in
`additional_chat_templates/`; the older `chat_template.json`; `tokenizer_config.json`; there, two of
them by name (`default` and `other`); nowhere."""

VICUNA_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role != 'system' %}{{ message.role | upper }}: {% endif %}"
    "{% for part in message.content if part.type == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message.content if part.type == 'text' %}{{ part.text }} {% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""LLaVA-1.5's and 1.6-Vicuna's, in words of our own: no token begins it, none ends a turn."""

MISTRAL_TEMPLATE = (Path(trl.__file__).parent / "chat_templates/llava_next.jinja").read_text()
"""LLaVA-1.6-Mistral's."""

PIXTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}[INST]"
    "{% for part in message.content %}{{ '[IMG]' if part.type == 'image' else part.text }}"
    "{% endfor %}[/INST]{% else %}{{ message.content[0].text }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
"""Pixtral's, in words of our own: it writes the beginning and the end of a sequence itself."""

OTHER_TEMPLATE = "{{ 'other' }}"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What differs among published folders."""

    weights: bool = True
    """Whether there are any."""
    dtype: torch.dtype = torch.float32
    template: TemplateLayout = "jinja"
    sharded: bool = False
    image_token: Literal["image_token_index", "image_token_id"] = "image_token_index"
    """Its name in config.json."""
    vocabulary_padding: int = 0
    """Of 1.6-Vicuna: rows beyond the tokenizer's, as published checkpoints have them."""
    end_token_ids: Sequence[int] = (2,)
    """generation_config.json's `eos_token_id`; several are a list there."""


def llava_15(folder: Path, **options: Any) -> Path:
    """LLaVA-1.5: 16 image tokens for any picture. `options`: of `Options`."""
    config = LlavaConfig(
        vision_config=_clip(),
        text_config=_text(LlamaConfig, num_key_value_heads=2),
        image_seq_length=(SIDE // PATCH) ** 2,
        image_token_index=IMAGE,
    )
    files = {"preprocessor_config.json": _pictures("CLIPImageProcessor")}
    return _save(
        LlavaForConditionalGeneration,
        config,
        folder,
        VICUNA_TEMPLATE,
        files,
        Options(**options),
        legacy_tokenizer=True,
    )


def llava_16_vicuna(folder: Path, **options: Any) -> Path:
    """LLaVA-1.6 on Vicuna: the number of image tokens depends on the picture."""
    chosen = Options(**options)
    text = _text(LlamaConfig, PAD + 1 + chosen.vocabulary_padding, num_key_value_heads=2)
    return _llava_next(folder, text, VICUNA_TEMPLATE, chosen)


def llava_16_mistral(folder: Path, **options: Any) -> Path:
    """LLaVA-1.6 on Mistral. Its template ends an answer by `</s>` and a space."""
    text = _text(MistralConfig, num_key_value_heads=1, sliding_window=None, rope_theta=1e6)
    return _llava_next(folder, text, MISTRAL_TEMPLATE, Options(**options), legacy_tokenizer=True)


def llava_pixtral(folder: Path, **options: Any) -> Path:
    """LLaVA with Pixtral's tower: a token for each patch of the picture, one behind each row."""
    side, patch = 128, 16
    added = ("[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[INST]", "[/INST]")
    config = LlavaConfig(
        vision_config=PixtralVisionConfig(
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=side,
            patch_size=patch,
        ),
        text_config=_text(
            MistralConfig,
            vocabulary=IMAGE + len(added),
            num_key_value_heads=1,
            head_dim=32,
            sliding_window=None,
        ),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        multimodal_projector_bias=True,
    )
    files = {
        "preprocessor_config.json": {
            **{k: v for k, v in _pictures("PixtralImageProcessor").items() if "crop" not in k},
            "patch_size": {"height": patch, "width": patch},
            "size": {"longest_edge": side},
        },
        "processor_config.json": {
            "image_break_token": "[IMG_BREAK]",
            "image_end_token": "[IMG_END]",
            "image_token": "[IMG]",
            "patch_size": patch,
            "processor_class": "PixtralProcessor",
        },
    }
    return _save(
        LlavaForConditionalGeneration,
        config,
        folder,
        PIXTRAL_TEMPLATE,
        files,
        Options(**options),
        added_tokens=added,
    )


def _llava_next(
    folder: Path,
    text: PreTrainedConfig,
    template: str,
    options: Options,
    *,
    legacy_tokenizer: bool = False,
) -> Path:
    config = LlavaNextConfig(
        vision_config=_clip(),
        text_config=text,
        image_grid_pinpoints=PINPOINTS,
        image_seq_length=(SIDE // PATCH) ** 2,
        image_token_index=IMAGE,
    )
    pictures = _pictures("LlavaNextImageProcessor")
    files = {"preprocessor_config.json": pictures | {"image_grid_pinpoints": PINPOINTS}}
    return _save(
        LlavaNextForConditionalGeneration,
        config,
        folder,
        template,
        files,
        options,
        legacy_tokenizer=legacy_tokenizer,
    )


def _clip() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=32,
    )


def _text(
    config: Callable[..., PreTrainedConfig], vocabulary: int = PAD + 1, **more: Any
) -> PreTrainedConfig:
    """`vocabulary`: rows; a random model writes those beyond the tokenizer's, too."""
    return config(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,  # of 32: what vLLM's kernels take on a CPU
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
        **more,
    )


def _pictures(image_processor: str) -> dict[str, Any]:
    return {
        "crop_size": {"height": SIDE, "width": SIDE},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": image_processor,
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": SIDE},
    }


def _save(
    model_class: Callable[..., PreTrainedModel],
    config: PreTrainedConfig,
    folder: Path,
    template: str,
    files: dict[str, dict[str, Any]],
    options: Options,
    *,
    legacy_tokenizer: bool = False,
    added_tokens: Sequence[str] = ("<image>", "<pad>"),
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if options.weights:
        _save_weights(model_class, config, folder, options)
    _save_tokenizer(folder, added_tokens, legacy=legacy_tokenizer)
    described = config.to_dict()
    described[options.image_token] = described.pop("image_token_index")
    described |= {
        "architectures": [model_class.__name__],
        "pad_token_id": PAD,
        "torch_dtype": str(options.dtype).removeprefix("torch."),
    }
    ends = list(options.end_token_ids)
    files = {
        "config.json": described,
        "generation_config.json": {
            "bos_token_id": 1,
            "eos_token_id": ends if len(ends) > 1 else ends[0],
            "pad_token_id": PAD,
        },
        "processor_config.json": {
            "image_token": "<image>",
            "num_additional_image_tokens": 1,
            "patch_size": PATCH,
            "processor_class": model_class.__name__.replace(
                "ForConditionalGeneration", "Processor"
            ),
            "vision_feature_select_strategy": "default",
        },
        **files,
    }
    for name, content in files.items():
        _write_json(folder / name, content)
    _save_template(folder, template, options.template)
    return folder


def _save_weights(
    model_class: Callable[..., PreTrainedModel],
    config: PreTrainedConfig,
    folder: Path,
    options: Options,
) -> None:
    torch.manual_seed(0)
    model = model_class(config)
    with torch.no_grad():
        # Fresh weights are so small that the image hardly matters; here it must.
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    save_torch_state_dict(
        {_hub_name(n): t.to(options.dtype).contiguous() for n, t in model.state_dict().items()},
        folder,
        max_shard_size=2**22 if options.sharded else 2**40,
        metadata={"format": "pt"},
    )


PIXTRAL_PARTS = ("ln_pre.", "patch_conv.", "transformer.")


def _hub_name(name: str) -> str:
    """Of a tensor of transformers 5, as it is published, by transformers 4's first modules."""
    for ours, theirs in (
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.vision_tower.vision_model.", "vision_tower.vision_model."),
        *((f"model.vision_tower.{part}", f"vision_tower.{part}") for part in PIXTRAL_PARTS),
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.", ""),
    ):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise ValueError(name)


def _save_tokenizer(folder: Path, added: Sequence[str], *, legacy: bool) -> None:
    """`legacy`: as tokenizer.json was written until 2024: text after a special token, too, begins
    with a space."""
    model = Path(mistral_common.__file__).parent / "data/tokenizer.model.v1"
    (folder / "tokenizer.model").write_bytes(model.read_bytes())
    tokenizer = LlamaTokenizer.from_pretrained(folder, add_bos_token=True)
    tokenizer.add_tokens(list(added), special_tokens=True)
    if legacy:
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        tokenizer.backend_tokenizer.pre_tokenizer = None
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    numbered = [*enumerate(["<unk>", "<s>", "</s>"]), *enumerate(added, IMAGE)]
    specials = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    _write_json(folder / "special_tokens_map.json", specials)
    _write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": True,
            "add_eos_token": False,
            "added_tokens_decoder": {
                str(number): {
                    "content": content,
                    "lstrip": False,
                    "normalized": False,
                    "rstrip": False,
                    "single_word": False,
                    "special": True,
                }
                for number, content in numbered
            },
            "clean_up_tokenization_spaces": False,
            "image_token": added[0],
            "legacy": legacy,
            "padding_side": "left",
            "tokenizer_class": "LlamaTokenizer",
            **specials,
        },
    )


def _save_template(folder: Path, template: str, layout: TemplateLayout) -> None:
    in_tokenizer: Any = None
    match layout:
        case "jinja" | "additional":
            (folder / "chat_template.jinja").write_text(template)
        case "processor":
            _write_json(folder / "chat_template.json", {"chat_template": template})
        case "tokenizer":
            in_tokenizer = template
        case "named":
            in_tokenizer = [
                {"name": "default", "template": template},
                {"name": "other", "template": OTHER_TEMPLATE},
            ]
        case "none":
            pass
    if layout == "additional":
        others = folder / "additional_chat_templates"
        others.mkdir()
        (others / "other.jinja").write_text(OTHER_TEMPLATE)
    if in_tokenizer is not None:
        path = folder / "tokenizer_config.json"
        _write_json(path, json.loads(path.read_text()) | {"chat_template": in_tokenizer})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
