"""What a processed image carries to the model beside its pixels, and one image out of a batch.

vLLM joins the fields of several images into a batch, each field in its own way, and hands the batch
to the model. The model computes only some of them, so it must take the batch apart again.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import torch
from vllm.multimodal.inputs import (
    MultiModalBatchedField,
    MultiModalFieldElem,
    MultiModalFlatField,
    MultiModalKwargsItem,
    MultiModalSharedField,
)

MASK = "prefstream_mask"
"""bool, shape (k,): true where the image token stays."""

WHOLE_TOKENS = "prefstream_whole_tokens"
"""int64, shape (n,), n ≥ k: what stands for the whole image in a prompt."""

IS_EMBED = "prefstream_is_embed"
"""bool, shape (n,): which of those are image tokens; the others, such as the ends of rows, stay
whatever is hidden."""

IMAGE_HASH = "prefstream_image_hash"
"""uint8, shape (32,): hash of what identifies the image; all zero: nothing is kept of it."""

LAYOUT = "prefstream_layout"
"""int64, shape (fields, 2): `field_layout` of each field of the model's own, by name."""

OWN_FIELDS = (MASK, WHOLE_TOKENS, IS_EMBED, IMAGE_HASH, LAYOUT)

NO_HASH = bytes(32)

STACKED, SHARED = -1, -2

Layout = tuple[int, int]


def put(item: MultiModalKwargsItem, name: str, value: torch.Tensor) -> None:
    """Adds a field that stays on the CPU."""
    item[name] = MultiModalFieldElem(data=value, field=MultiModalBatchedField(keep_on_cpu=True))


def model_fields(names: Iterable[str]) -> list[str]:
    """Names of the model's own fields, in the order of `LAYOUT`."""
    return sorted(name for name in names if name not in OWN_FIELDS)


def field_layout(elem: MultiModalFieldElem) -> Layout:
    """How one image's piece of a field lies in a batch: its size, and the dimension along which
    pieces are joined. `STACKED`, `SHARED` for the size: a batch has one entry for each image, or
    one for all."""
    field, data = elem.field, elem.data
    if isinstance(field, MultiModalSharedField):
        return SHARED, 0
    if not isinstance(field, MultiModalFlatField):
        return STACKED, 0
    if isinstance(data, torch.Tensor):
        dim = field.dim % data.dim()
        return data.shape[dim], dim
    return len(data), 0  # type: ignore[arg-type]


def select_images(value: Any, places: Sequence[int], layouts: Sequence[Layout]) -> Any:
    """The images at these places, of one field of a batch of all of them.

    Args:
        value: the field, as vLLM hands it to the model.
        layouts: the field's, of each image of the batch.
    """
    size, dim = layouts[0]
    if size == SHARED:
        return value
    if size == STACKED:
        return (
            value[list(places)] if isinstance(value, torch.Tensor) else [value[i] for i in places]
        )
    sizes = [size for size, _ in layouts]
    if isinstance(value, torch.Tensor):
        pieces = value.split(sizes, dim)
        return torch.cat([pieces[i] for i in places], dim)
    ends = [0, *accumulate(sizes)]
    return [piece for i in places for piece in value[ends[i] : ends[i + 1]]]


def group_images(rows: Sequence[int], places: Sequence[int], limit: int) -> list[list[int]]:
    """The places in order, in groups of at most `limit` rows together, or of a single image.

    Args:
        rows: of each image of the batch.
    """
    groups: list[list[int]] = []
    left = 0
    for place in places:
        if rows[place] > left:
            groups.append([])
            left = limit
        groups[-1].append(place)
        left -= rows[place]
    return groups
