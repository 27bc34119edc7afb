"""LLaVA-1.5: one square view of the picture."""

import re
from typing import Any

from vllm.model_executor.models import llava
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from service.schemas import ImageView
from worker.plugin.masking import MaskingModel, MaskingProcessor

TOWER_NAME = re.compile(r"^(model\.)?vision_tower\.(?!vision_model\.)")

TOWER_NAMES = WeightsMapper(
    orig_to_new_regex={TOWER_NAME: "vision_tower.vision_model."}  # pyright: ignore[reportArgumentType]
)
"""transformers 5 leaves out a level in the names of the CLIP tower that vLLM 0.32 expects."""


class MaskingLlavaProcessor(MaskingProcessor, llava.LlavaMultiModalProcessor):
    """LLaVA-1.5's processor, with a mask."""


@MULTIMODAL_REGISTRY.register_processor(
    MaskingLlavaProcessor,
    info=llava.LlavaProcessingInfo,
    dummy_inputs=llava.LlavaDummyInputsBuilder,
)
class MaskedModel(MaskingModel, llava.LlavaForConditionalGeneration):
    """LLaVA-1.5, with a mask."""

    hf_to_vllm_mapper = llava.LlavaForConditionalGeneration.hf_to_vllm_mapper | TOWER_NAMES


def image_views(info: Any, width: int, height: int) -> list[ImageView]:
    """How the tokens of a picture of this size (pixels) cover it.

    `info` is vLLM's processing info of the model.
    """
    return [base_image_view(info)]


def base_image_view(info: Any) -> ImageView:
    side = info.get_vision_encoder_info().get_patch_grid_length()
    return ImageView(start=0, rows=side, columns=side, newline=False)
