"""How a model's image tokens cover the picture: for the page and the report, and for nothing else.

Where it is not known, the page shows how many tokens stay, and not which patches.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from transformers import PixtralVisionConfig
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape
from vllm.transformers_utils.processors.internvl import calculate_internvl_targets

from service.schemas import ImageView

Size = tuple[int, int]
"""Width and height of a picture, pixels."""

ImageViews = Callable[[Any, Any, Size], list[ImageView]]
"""Of vLLM's processing info of the model, the processed image, and the picture's size."""


def image_views(info: Any, item: Any, size: Size, image_tokens: int) -> list[ImageView]:
    """The grids of a picture's image tokens; empty, where they are not known.

    Args:
        info: vLLM's processing info of the model.
        item: the processed image, vLLM's `MultiModalKwargsItem`.
        image_tokens: k. Grids that do not cover just these are none.
    """
    architecture = next(iter(info.get_hf_config().architectures or ()), "")
    known = VIEWS.get(architecture)
    views = [] if known is None else known(info, item, size)
    covered = sum(view.rows * (view.columns + view.newline) for view in views)
    return views if covered == image_tokens else []


def _llava(info: Any, item: Any, size: Size) -> list[ImageView]:
    """One square view; with Pixtral's tower, one in the picture's own shape."""
    encoder = info.get_vision_encoder_info()
    if not isinstance(info.get_hf_config().vision_config, PixtralVisionConfig):
        return [_square(encoder.get_patch_grid_length())]
    width, height = size
    columns, rows = encoder.get_patch_grid_size(image_width=width, image_height=height)
    return [ImageView(start=0, rows=rows, columns=columns, newline=False)]


def _llava_next(info: Any, item: Any, size: Size) -> list[ImageView]:
    """The whole picture once, then tiles at higher resolution. Their padding is cut off before
    newlines are added, so their grid, too, covers just the picture."""
    width, height = size
    encoder = info.get_vision_encoder_info()
    base = _square(encoder.get_patch_grid_length())
    tiles_high, tiles_wide = get_anyres_image_grid_shape(
        (height, width), info.get_hf_config().image_grid_pinpoints, encoder.get_image_size()
    )
    patches, rows = info._get_num_unpadded_features(
        original_height=height,
        original_width=width,
        npatches=encoder.get_patch_grid_length(),
        num_patch_height=tiles_high,
        num_patch_width=tiles_wide,
    )
    if rows == 0:  # a line so thin that nothing of its tiles is left
        return [base]
    start = base.rows * base.columns
    return [base, ImageView(start=start, rows=rows, columns=patches // rows, newline=True)]


def _qwen(info: Any, item: Any, size: Size) -> list[ImageView]:
    """The tower's patches, merged in squares."""
    merged = info.get_hf_config().vision_config.spatial_merge_size
    _, high, wide = item["image_grid_thw"].data.tolist()
    return [ImageView(start=0, rows=high // merged, columns=wide // merged, newline=False)]


def _internvl(info: Any, item: Any, size: Size) -> list[ImageView]:
    """The tiles of a grid of the picture's shape, then the whole picture."""
    width, height = size
    processor = info.get_hf_processor()
    pictures = processor.image_processor
    tile = pictures.size["height"], pictures.size["width"]
    columns, rows = 1, 1
    if pictures.crop_to_patches:
        columns, rows = get_optimal_tiled_canvas(
            (height, width), tile, pictures.min_patches, pictures.max_patches
        )
    return _tiles(rows, columns, processor.image_seq_length)


def _internvl_chat(info: Any, item: Any, size: Size) -> list[ImageView]:
    """The same, by the code of the older layout."""
    width, height = size
    processor = info.get_hf_processor()
    side = processor.image_processor.image_size
    _, canvas_width, canvas_height = calculate_internvl_targets(
        orig_width=width,
        orig_height=height,
        image_size=side,
        target_ratios=processor.resolve_target_ratios(use_thumbnail=False),
        use_thumbnail=processor.image_processor.use_thumbnail,
    )
    return _tiles(canvas_height // side, canvas_width // side, processor.image_seq_length)


def _idefics3(info: Any, item: Any, size: Size) -> list[ImageView]:
    """The tiles of a grid of the picture's shape, then the whole picture."""
    width, height = size
    processor = info.get_hf_processor()
    _, rows, columns = info._get_image_feature_grid_size(
        image_width=width, image_height=height, processor=processor, mm_kwargs={}
    )
    return _tiles(max(rows, 1), max(columns, 1), processor.image_seq_len)


def _gemma3(info: Any, item: Any, size: Size) -> list[ImageView]:
    """The tower's patches, pooled to a square. Cut into crops (pan and scan), it is not known."""
    return [_square(math.isqrt(info.get_hf_config().mm_tokens_per_image))]


def _gemma4(info: Any, item: Any, size: Size) -> list[ImageView]:
    """The tower's patches in the picture's shape, pooled in squares."""
    pooled = info.get_hf_config().vision_config.pooling_kernel_size
    last_column, last_row = item["pixel_position_ids"].data.amax(0).tolist()  # padding is negative
    rows, columns = (last_row + 1) // pooled, (last_column + 1) // pooled
    return [ImageView(start=0, rows=rows, columns=columns, newline=False)]


def _square(side: int, start: int = 0) -> ImageView:
    return ImageView(start=start, rows=side, columns=side, newline=False)


def _tiles(rows: int, columns: int, tokens: int) -> list[ImageView]:
    """Square grids of so many tokens: one a tile, row by row, then one of the whole picture."""
    side = math.isqrt(tokens)
    if rows * columns == 1:
        return [_square(side)]
    tiles = [
        _square(side, start=tokens * (row * columns + column)).model_copy(
            update={
                "tile_rows": rows,
                "tile_columns": columns,
                "tile_row": row,
                "tile_column": column,
            }
        )
        for row in range(rows)
        for column in range(columns)
    ]
    return [*tiles, _square(side, start=tokens * len(tiles))]


VIEWS: Mapping[str, ImageViews] = {
    "LlavaForConditionalGeneration": _llava,
    "LlavaNextForConditionalGeneration": _llava_next,
    "Qwen2VLForConditionalGeneration": _qwen,
    "Qwen2_5_VLForConditionalGeneration": _qwen,
    "Qwen3VLForConditionalGeneration": _qwen,
    "Qwen3_5ForConditionalGeneration": _qwen,
    "InternVLForConditionalGeneration": _internvl,
    "InternVLChatModel": _internvl_chat,
    "Idefics3ForConditionalGeneration": _idefics3,
    "SmolVLMForConditionalGeneration": _idefics3,
    "Gemma3ForConditionalGeneration": _gemma3,
    "Gemma4ForConditionalGeneration": _gemma4,
}
"""By architecture."""
