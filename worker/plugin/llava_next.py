"""LLaVA-NeXT (1.6): the whole image once, then tiles at higher resolution."""

from typing import Any

from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape
from vllm.model_executor.models import llava, llava_next
from vllm.multimodal import MULTIMODAL_REGISTRY

from service.schemas import ImageView
from worker.plugin.llava import ENGINE_NAMES, base_image_view
from worker.plugin.masking import MaskingModel, MaskingProcessor


class MaskingLlavaNextProcessor(
    MaskingProcessor, llava_next.LlavaNextMultiModalProcessor[llava_next.LlavaNextProcessingInfo]
):
    """LLaVA-NeXT's processor, with a mask."""


@MULTIMODAL_REGISTRY.register_processor(
    MaskingLlavaNextProcessor,
    info=llava_next.LlavaNextProcessingInfo,
    dummy_inputs=llava.LlavaDummyInputsBuilder,
)
class MaskedModel(MaskingModel, llava_next.LlavaNextForConditionalGeneration):
    """LLaVA-NeXT, with a mask."""

    hf_to_vllm_mapper = ENGINE_NAMES


def structure_tokens(info: Any, width: int, height: int) -> list[int]:
    """As in `worker.plugin.llava`: a row's newline is one of the image tokens."""
    return []


def image_views(info: Any, width: int, height: int) -> list[ImageView]:
    """As in `worker.plugin.llava`. The tiles' padding is cut off before the newlines are added,
    so their grid, too, covers just the image."""
    base = base_image_view(info)
    encoder = info.get_vision_encoder_info()
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
    tiles = ImageView(
        start=base.rows * base.columns, rows=rows, columns=patches // rows, newline=True
    )
    return [base, tiles]
