"""LLaVA-1.5: one square view of the image."""

from typing import Any

from vllm.model_executor.models import llava
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from service.checkpoints.tensor_names import PUBLISHED_NAMES
from service.schemas import ImageView
from worker.plugin.masking import MaskingModel, MaskingProcessor

ENGINE_NAMES = WeightsMapper(
    orig_to_new_regex=dict(PUBLISHED_NAMES)  # pyright: ignore[reportArgumentType]
)
"""vLLM 0.32's names are the published ones. Its own rules do not know the CLIP tower's names of
transformers 5."""


class MaskingLlavaProcessor(MaskingProcessor, llava.LlavaMultiModalProcessor):
    """LLaVA-1.5's processor, with a mask."""


@MULTIMODAL_REGISTRY.register_processor(
    MaskingLlavaProcessor,
    info=llava.LlavaProcessingInfo,
    dummy_inputs=llava.LlavaDummyInputsBuilder,
)
class MaskedModel(MaskingModel, llava.LlavaForConditionalGeneration):
    """LLaVA-1.5, with a mask."""

    hf_to_vllm_mapper = ENGINE_NAMES


def image_views(info: Any, width: int, height: int) -> list[ImageView]:
    """How the tokens of a image of this size (pixels) cover it.

    `info` is vLLM's processing info of the model.
    """
    return [base_image_view(info)]


def base_image_view(info: Any) -> ImageView:
    side = info.get_vision_encoder_info().get_patch_grid_length()
    return ImageView(start=0, rows=side, columns=side, newline=False)
