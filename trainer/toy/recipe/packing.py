"""Packs the questions about one image into one row, so that the image is computed once.

A row is the image prefix followed by branches. A branch with the image sees the prefix and itself;
a branch without it sees itself alone. The 4-D attention mask and the position numbers make every
branch equal to a sequence of its own (tests/trainer/toy/recipe/test_packing.py).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from trainer.toy.language import COUNTS, Question
from trainer.toy.recipe.family import LLAVA_NEXT, Family, Pixels
from trainer.toy.recipe.lessons import Exercise
from trainer.toy.recipe.tokenizer import IMAGE_ID, PAD_ID
from trainer.toy.world import CELLS, COLORS, KINDS, Scene, render

CONTENT_WEIGHT = 3.0
"""Loss weight of a token that carries meaning; other tokens of an answer weigh 1."""
_CONTENT_WORDS = ("Yes", "No", "no", "nothing", *KINDS, *COLORS, *" ".join(CELLS).split(), *COUNTS)
_CONTENT = re.compile(rf"\b(?:{'|'.join(_CONTENT_WORDS)})\b")


@dataclass(frozen=True)
class Batch:
    """Packed rows; B rows of L tokens."""

    input_ids: Tensor
    """(B, L) token ids."""
    position_ids: Tensor
    """(axes, B, L) positions, counted within each branch's own sequence."""
    attention_mask: Tensor
    """(B, 1, L, L) bool: row i may look at column j."""
    targets: Tensor
    """(B, L) the token that follows within the branch."""
    weights: Tensor
    """(B, L) loss weight of each target; 0 outside the answers."""
    pixels: Pixels
    """What the model is shown of the B images."""


def encode(
    question: Question, processor: Any, *, sees_image: bool, image_tokens: int
) -> tuple[list[int], list[float]]:
    """Token ids of a whole conversation (S), and the weight of each as a target (S).

    The ids are those of the rendered chat template, with the image placeholder repeated once for
    each image token.
    """
    tokenizer = processor.tokenizer
    image = [{"type": "image"}] if sees_image else []
    asked = {"role": "user", "content": [*image, {"type": "text", "text": question.prompt}]}
    prompt = tokenizer.apply_chat_template([asked], tokenize=False, add_generation_prompt=True)
    text = prompt + question.answer + tokenizer.eos_token
    content = [match.span() for match in _CONTENT.finditer(question.answer)]
    encoding = tokenizer(text, return_offsets_mapping=True)
    ids: list[int] = []
    weights: list[float] = []
    for token, (start, end) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
        start, end = start - len(prompt), end - len(prompt)
        repeats = image_tokens if token == IMAGE_ID else 1
        meant = any(start < last and first < end for first, last in content)
        ids += [token] * repeats
        weights += [0.0 if start < 0 else CONTENT_WEIGHT if meant else 1.0] * repeats
    return ids, weights


def pack(
    scenes: Sequence[Scene],
    lessons: Sequence[Sequence[Exercise]],
    processor: Any,
    family: Family = LLAVA_NEXT,
) -> Batch:
    """Packs one row for each scene, padded to the longest."""
    rows = [_pack_row(lesson, processor, family) for lesson in lessons]
    length = max(len(row.ids) for row in rows)
    size = (len(rows), length)
    input_ids = torch.full(size, PAD_ID)
    axes = len(rows[0].positions[0])
    position_ids = torch.zeros(axes, *size, dtype=torch.long)
    targets = torch.zeros(size, dtype=torch.long)
    weights = torch.zeros(size)
    segments = torch.full(size, -1)
    blind = torch.zeros(size, dtype=torch.bool)
    for index, row in enumerate(rows):
        used = len(row.ids)
        input_ids[index, :used] = torch.tensor(row.ids)
        position_ids[:, index, :used] = torch.cat(row.positions, dim=1)
        targets[index, :used] = torch.tensor(row.targets)
        weights[index, :used] = torch.tensor(row.weights)
        segments[index, :used] = torch.tensor(row.segments)
        blind[index, :used] = torch.tensor(row.blind)
    return Batch(
        input_ids=input_ids,
        position_ids=position_ids,
        attention_mask=_attention_mask(segments, blind),
        targets=targets,
        weights=weights,
        pixels=family.pixels(processor, [render(scene) for scene in scenes]),
    )


def hidden_states(model: Any, batch: Batch) -> Tensor:
    """(B, L, hidden size) the states from which the model predicts each next token."""
    return model.model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids.squeeze(0),  # of one axis it is none
        attention_mask=batch.attention_mask,
        **batch.pixels,
        use_cache=False,
    ).last_hidden_state


def loss(model: Any, batch: Batch) -> Tensor:
    """Weighted mean of the cross-entropy over all answer tokens of the batch."""
    answers = batch.weights > 0
    logits = model.lm_head(hidden_states(model, batch)[answers])
    losses = functional.cross_entropy(logits, batch.targets[answers], reduction="none")
    weights = batch.weights[answers]
    return (losses * weights).sum() / weights.sum()


@dataclass
class _Row:
    """One row while it is packed; the other lists have one entry a token."""

    ids: list[int]
    positions: list[Tensor]
    """Of pieces of the row, each (axes, tokens)."""
    targets: list[int]
    weights: list[float]
    segments: list[int]
    """0 for the image prefix, then 1, 2, ... for the branches."""
    blind: list[bool]
    """Whether the token's branch does not see the prefix."""


def _pack_row(lesson: Sequence[Exercise], processor: Any, family: Family) -> _Row:
    row = _Row([], [], [], [], [], [])
    for segment, exercise in enumerate(
        sorted(lesson, key=lambda exercise: not exercise.sees_image), start=1
    ):
        ids, weights = encode(
            exercise.question,
            processor,
            sees_image=exercise.sees_image,
            image_tokens=family.image_tokens,
        )
        positions = family.positions(ids)
        # Up to and with the last token of the image.
        shared = ids.index(IMAGE_ID) + family.image_tokens if exercise.sees_image else 0
        if shared and not row.ids:
            _extend(
                row, ids[:shared], weights[:shared], positions[:, :shared], segment=0, blind=False
            )
        _extend(
            row,
            ids[shared:],
            weights[shared:],
            positions[:, shared:],
            segment=segment,
            blind=not exercise.sees_image,
        )
    return row


def _extend(
    row: _Row,
    ids: list[int],
    weights: list[float],
    positions: Tensor,
    *,
    segment: int,
    blind: bool,
) -> None:
    row.ids += ids
    row.positions.append(positions)
    row.targets += [*ids[1:], 0]
    row.weights += [*weights[1:], 0.0]
    row.segments += [segment] * len(ids)
    row.blind += [blind] * len(ids)


def _attention_mask(segments: Tensor, blind: Tensor) -> Tensor:
    """(B, 1, L, L) from (B, L) segment numbers and blindness: causal, own branch or prefix."""
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = segments[:, :, None] == segments[:, None, :]
    prefix = (segments[:, None, :] == 0) & ~blind[:, :, None]
    return ((same | prefix) & causal)[:, None]
