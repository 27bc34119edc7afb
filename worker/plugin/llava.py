"""LLaVA-1.5: one square view of the image. With Pixtral's tower: one view in the image's own shape,
whose rows end in tokens that stay whatever is hidden."""

from typing import Any

from transformers import PixtralVisionConfig
from vllm.model_executor.models import llava
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.processing import BaseMultiModalProcessor

from service.checkpoints.tensor_names import PUBLISHED_NAMES
from service.schemas import ImageView
from worker.plugin.masking import MaskingModel, MaskingProcessor

ENGINE_NAMES = WeightsMapper(
    orig_to_new_regex=dict(PUBLISHED_NAMES)  # pyright: ignore[reportArgumentType]
)
"""vLLM 0.32's names are the published ones. Its own rules do not know the names that transformers 5
has for towers."""


class MaskingLlavaProcessor(MaskingProcessor, llava.LlavaMultiModalProcessor):
    """LLaVA-1.5's processor, with a mask."""


class MaskingPixtralProcessor(MaskingProcessor, llava.PixtralHFMultiModalProcessor):
    """Of a LLaVA with Pixtral's tower, with a mask."""


def _processing_info(ctx: Any) -> Any:
    pixtral = isinstance(ctx.get_hf_config().vision_config, PixtralVisionConfig)
    return (llava.PixtralHFProcessingInfo if pixtral else llava.LlavaProcessingInfo)(ctx)


def _processor(info: Any, dummy_inputs: Any) -> BaseMultiModalProcessor[Any]:
    return (MaskingPixtralProcessor if _has_rows(info) else MaskingLlavaProcessor)(
        info, dummy_inputs
    )


def _has_rows(info: Any) -> bool:
    return isinstance(info, llava.PixtralHFProcessingInfo)


@MULTIMODAL_REGISTRY.register_processor(
    _processor,
    info=_processing_info,
    dummy_inputs=llava.LlavaDummyInputsBuilder,
)
class MaskedModel(MaskingModel, llava.LlavaForConditionalGeneration):
    """LLaVA-1.5, with a mask."""

    hf_to_vllm_mapper = ENGINE_NAMES


def image_views(info: Any, width: int, height: int) -> list[ImageView]:
    """How the tokens of an image of this size (pixels) cover it.

    `info` is vLLM's processing info of the model.
    """
    if not _has_rows(info):
        return [base_image_view(info)]
    columns, rows = _pixtral_grid(info, width, height)
    return [ImageView(start=0, rows=rows, columns=columns, newline=False)]


def structure_tokens(info: Any, width: int, height: int) -> list[int]:
    """Ids of the tokens in an image's place that are none of its k: masks leave them."""
    if not _has_rows(info):
        return []
    _, rows = _pixtral_grid(info, width, height)
    processor, vocabulary = info.get_hf_processor(), info.get_tokenizer().get_vocab()
    row_end = vocabulary[processor.image_break_token]
    return [row_end] * (rows - 1) + [vocabulary[processor.image_end_token]]


def _pixtral_grid(info: Any, width: int, height: int) -> tuple[int, int]:
    """Columns and rows."""
    encoder = info.get_vision_encoder_info()
    return encoder.get_patch_grid_size(image_width=width, image_height=height)


def base_image_view(info: Any) -> ImageView:
    side = info.get_vision_encoder_info().get_patch_grid_length()
    return ImageView(start=0, rows=side, columns=side, newline=False)
