"""Small tokenizers of the kinds that the families have, with the special tokens that they have.

What is special has its published text, and where it stands in front of the vocabulary its published
number, too. The vocabulary itself is small, so that weights are.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from tests.families.checkpoints.files import write_json

CORPUS = (
    "Describe the image. What is in the picture? What is on the left, and what is on the right?",
    "There is a red circle in the top left, a blue square and a green triangle below it.",
    "user assistant system model User Assistant USER ASSISTANT You are a helpful assistant.",
    "A dog and two cats sit on the chair near a window. The sky is bright, the water is dark.",
    "You describe pictures in few words. Yes, it is. No, there are none. row_1_col_1 global-img",
)

LEARNT = 500
"""Tokens of the vocabulary, its alphabet among them."""

QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_WORDS = QWEN_WORDS.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A tokenizer's special tokens and its files."""

    tokenizer_class: str
    eos: str
    pad: str
    bos: str | None = None
    unk: str | None = None
    adds_bos: bool = False
    in_front: Sequence[str] = ()
    """Special tokens with the first numbers."""
    behind: Sequence[str] = ()
    """Special tokens with the last numbers."""
    words: str = QWEN_WORDS
    """Pattern of what is never merged across."""
    named: Mapping[str, str] = field(default_factory=dict[str, str])
    """Special tokens by the names that the processor knows them by, such as `image_token`."""


@dataclass(frozen=True)
class Saved:
    """A tokenizer as it lies in the folder."""

    tokenizer: Tokenizer
    layout: Layout

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size(with_added_tokens=True)

    def id(self, token: str) -> int:
        number = self.tokenizer.token_to_id(token)
        assert number is not None, token
        return number

    @property
    def special_ids(self) -> dict[str, int | None]:
        """As a model's configuration names them."""
        bos = self.layout.bos
        return {
            "bos_token_id": None if bos is None else self.id(bos),
            "eos_token_id": self.id(self.layout.eos),
            "pad_token_id": self.id(self.layout.pad),
        }


def save_byte_level(folder: Path, layout: Layout) -> Saved:
    """Of bytes, as Qwen, Llama 3, SmolLM and Mistral's Tekken have it."""
    vocabulary, merges = _learn(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer = Tokenizer(models.BPE(_numbered([*layout.in_front, *vocabulary]), merges))
    if layout.tokenizer_class == "Qwen2Tokenizer":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(layout.words), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return _save(folder, tokenizer, layout)


LINES = ["\n" * count for count in range(1, 32)]
"""Gemma has runs of line feeds as tokens."""


def save_gemma(folder: Path, layout: Layout) -> Saved:
    """Of characters, and of bytes where there is no character; spaces are written ▁."""
    vocabulary, merges = _learn(
        pre_tokenizers.Split("▁", behavior="merged_with_next"), normalizers.Replace(" ", "▁")
    )
    letters = [token for token in vocabulary if "\n" not in token]
    octets = [f"<0x{octet:02X}>" for octet in range(256)]
    numbered = _numbered([*layout.in_front, *LINES, *octets, *letters])
    model = models.BPE(numbered, merges, unk_token=layout.unk, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_tokens([AddedToken(line, normalized=False) for line in LINES])
    return _save(folder, tokenizer, layout)


def _learn(pre_tokenizer: Any, normalizer: Any = None) -> tuple[list[str], list[tuple[str, str]]]:
    """Tokens in the order of their numbers, and merges."""
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=LEARNT,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if normalizer is None else [],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocabulary: dict[str, int] = model["vocab"]
    merges = [(first, second) for first, second in model["merges"]]
    return sorted(vocabulary, key=vocabulary.__getitem__), merges


def _numbered(tokens: Sequence[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}


def _save(folder: Path, tokenizer: Tokenizer, layout: Layout) -> Saved:
    tokenizer.add_special_tokens([*layout.in_front, *layout.behind])
    saved = Saved(tokenizer, layout)
    if layout.adds_bos and layout.bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{layout.bos} $A",
            pair=f"{layout.bos} $A {layout.bos} $B",
            special_tokens=[(layout.bos, saved.id(layout.bos))],
        )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    specials = {"bos_token": layout.bos, "eos_token": layout.eos, "pad_token": layout.pad}
    if layout.unk is not None:
        specials["unk_token"] = layout.unk
    special = {*layout.in_front, *layout.behind}
    added = tokenizer.get_added_tokens_decoder().items()
    config = {
        "added_tokens_decoder": {
            str(number): {
                "content": token.content,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": token.content in special,
            }
            for number, token in sorted(added)
        },
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "padding_side": "left",
        "tokenizer_class": layout.tokenizer_class,
        **specials,
        **layout.named,
    }
    if layout.adds_bos:
        config["add_bos_token"] = True
    if layout.named:
        config["extra_special_tokens"] = dict(layout.named)
    write_json(folder / "tokenizer_config.json", config)
    write_json(
        folder / "special_tokens_map.json", {k: v for k, v in specials.items() if v is not None}
    )
    return saved
