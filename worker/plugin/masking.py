"""Leaving image tokens out of a request, the same for every family.

Hiding an image token from attention and leaving its embedding out of the sequence are the same
thing, as long as positions count the tokens that are there; tests/worker/test_masking.py holds
that against transformers. So a masked request is an ordinary, shorter request: the processor
repeats the image placeholder once per kept token, the model drops the other rows.

What is done to an image travels as `mm_processor_kwargs`, which vLLM includes in the item's hash:
two masks of one image never share cached embeddings or key-value blocks. The same way diffusion
noise is added to the processed pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from transformers import BatchFeature
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import ImageProcessorItems, MultiModalDataItems
from vllm.multimodal.processing import PromptReplacement, PromptUpdate

from worker.bdhs.noise import scales

KEPT = "kept_image_tokens"
"""Request key: ascending indices of the image tokens that stay, at least one. Absent: all stay."""

NOISE = "image_noise"
"""Request key: steps of the diffusion schedule and the noise's seed. Absent: no noise."""

MASK = "image_token_mask"
"""Field of a processed image: bool of shape (k,), true where the token stays."""


class MaskingProcessor:
    """Mixin before a LLaVA multimodal processor: turns `KEPT` into a mask and a placeholder."""

    info: Any

    def _apply_hf_processor_main(
        self, mm_items: MultiModalDataItems, hf_kwargs: Mapping[str, object]
    ) -> BatchFeature:
        hf_kwargs = dict(hf_kwargs)
        kept = cast(Sequence[int] | None, hf_kwargs.pop(KEPT, None))
        noise = cast(Sequence[int] | None, hf_kwargs.pop(NOISE, None))
        processed = super()._apply_hf_processor_main(mm_items, hf_kwargs)  # type: ignore[misc]
        # When every image is cached already, vLLM asks for no image at all.
        if mm_items.get_count("image", strict=False):
            images = mm_items.get_items("image", ImageProcessorItems)
            processed[MASK] = [self._mask(images, i, kept) for i in range(len(images))]
            if noise is not None:
                pixels = processed["pixel_values"]
                processed["pixel_values"] = [add_noise(p, *noise) for p in pixels]
        return processed

    def _mask(
        self, images: ImageProcessorItems, index: int, kept: Sequence[int] | None
    ) -> torch.Tensor:
        size = images.get_image_size(index)
        count = self.info.get_num_image_tokens(image_width=size.width, image_height=size.height)
        if kept is None:
            return torch.ones(count, dtype=torch.bool)
        if not kept:
            raise VLLMValidationError(f"{KEPT} is empty: send the prompt without the image instead")
        if not 0 <= min(kept) <= max(kept) < count:
            raise VLLMValidationError(
                f"{KEPT} names tokens outside 0…{count - 1}: {min(kept)}…{max(kept)}"
            )
        mask = torch.zeros(count, dtype=torch.bool)
        mask[list(kept)] = True
        return mask

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        fields = super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs)  # type: ignore[misc]
        return {**fields, MASK: MultiModalFieldConfig.batched("image", keep_on_cpu=True)}

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        image_token = self.info.get_hf_config().image_token_index

        def placeholder(index: int) -> list[int]:
            mask = cast(torch.Tensor, out_mm_kwargs["image"][index][MASK].data)
            return [image_token] * int(mask.sum())

        return [PromptReplacement("image", target=[image_token], replacement=placeholder)]


def add_noise(pixels: torch.Tensor, steps: int, seed: int) -> torch.Tensor:
    """An image's processed pixels after so many steps of diffusion, in the same shape and dtype."""
    image, noise = scales(steps)
    generator = torch.Generator().manual_seed(seed)
    epsilon = torch.randn(pixels.shape, generator=generator)
    return (image * pixels.float() + noise * epsilon).to(pixels.dtype)


class MaskingModel:
    """Mixin before a LLaVA model: drops the rows of masked tokens from the image embeddings."""

    supports_tower_connector_lora = False  # vLLM would count the rows that are dropped here

    def embed_multimodal(self, **kwargs: Any) -> list[torch.Tensor]:
        """Image embeddings, each (kept tokens, hidden size), in the order of the images."""
        masks = kwargs.pop(MASK, None)
        embeddings = super().embed_multimodal(**kwargs)  # type: ignore[misc]
        if masks is None:
            return embeddings
        return [
            rows[mask.nonzero().squeeze(1).to(rows.device)]
            for rows, mask in zip(embeddings, masks, strict=True)
        ]
