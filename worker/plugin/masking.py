"""Leaving image tokens out of a request, the same for every family.

Hiding an image token from attention and leaving its embedding out of the sequence are the same
thing, as long as positions count the tokens that are there; tests/worker/plugin/test_masking.py
holds that against transformers. So a masked request is an ordinary, shorter request: the processor
takes hidden tokens out of those that vLLM puts in the placeholder's place, the model drops their
rows. Tokens there that stand for no part of the image, such as the end of a row, stay.

What is done to an image travels as `mm_processor_kwargs`, which vLLM includes in the item's hash:
two masks of one image never share cached embeddings or key-value blocks. The same way diffusion
noise is added to the processed pixels.

What two masks of an image do share is done once: its pixels are resized and cut into tiles once (in
the worker's process), and the vision tower runs once (in the engine's; `feature_cache`).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from cachetools import LRUCache
from transformers import BatchFeature
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.inputs import (
    MultiModalFieldConfig,
    MultiModalKwargsItem,
    MultiModalKwargsItems,
)
from vllm.multimodal.parse import ImageProcessorItems, MultiModalDataItems
from vllm.multimodal.processing import PromptUpdateDetails
from vllm.multimodal.processing.processor import MultiModalPromptUpdates

from worker.bdhs.noise import noise_scales
from worker.plugin.feature_cache import FeatureCache, select_items

IMAGE_REF = "image_ref"
"""Request key: what identifies the request's only image, such as the hash of its bytes. Absent:
nothing is kept of it."""

KEPT_IMAGE_TOKENS = "kept_image_tokens"
"""Request key: ascending indices of the image tokens that stay, at least one. Absent: all stay."""

IMAGE_NOISE = "image_noise"
"""Request key: steps of the diffusion schedule and the noise's seed. Absent: no noise."""

REQUEST_KEYS = (IMAGE_REF, KEPT_IMAGE_TOKENS, IMAGE_NOISE)

IMAGE_TOKEN_MASK = "image_token_mask"
"""Field of a processed image: bool of shape (k,), true where the token stays."""

IMAGE_HASH = "image_hash"
"""Field of a processed image: uint8 of shape (32,), the hash of `IMAGE_REF`; all zero: none."""

NO_HASH = bytes(32)

FEATURE_CACHE_GIB = "prefstream_feature_cache_gib"
"""Key of vLLM's `additional_config`: bound on the engine's `FeatureCache`."""

PROCESSED_CACHE_BYTES = 512 * 2**20
"""Bound on the processed images kept in the worker's process: some 75 at LLaVA-NeXT's 336 px."""


class MaskingProcessor:
    """Mixin before a LLaVA multimodal processor: turns the kept tokens into a mask."""

    info: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._processed: LRUCache[str, BatchFeature] = LRUCache(
            PROCESSED_CACHE_BYTES, getsizeof=_size
        )

    def _apply_hf_processor_main(
        self, mm_items: MultiModalDataItems, hf_kwargs: Mapping[str, object]
    ) -> BatchFeature:
        ref = cast(str | None, hf_kwargs.get(IMAGE_REF))
        kept = cast(Sequence[int] | None, hf_kwargs.get(KEPT_IMAGE_TOKENS))
        noise = cast(Sequence[int] | None, hf_kwargs.get(IMAGE_NOISE))
        hf_kwargs = _without_request_keys(hf_kwargs)
        # When every image is cached already, vLLM asks for no image at all.
        if not mm_items.get_count("image", strict=False):
            return super()._apply_hf_processor_main(mm_items, hf_kwargs)  # type: ignore[misc]
        processed = self._process(ref, mm_items, hf_kwargs)
        images = mm_items.get_items("image", ImageProcessorItems)
        processed[IMAGE_TOKEN_MASK] = [self._mask(images, i, kept) for i in range(len(images))]
        if noise is not None:
            pixels = processed["pixel_values"]
            processed["pixel_values"] = [add_noise(p, *noise) for p in pixels]
        key = hashlib.sha256(ref.encode()).digest() if ref and not noise else NO_HASH
        processed[IMAGE_HASH] = [torch.tensor(list(key), dtype=torch.uint8)] * len(images)
        return processed

    def _process(
        self, ref: str | None, mm_items: MultiModalDataItems, hf_kwargs: Mapping[str, object]
    ) -> BatchFeature:
        """The images as transformers' processor makes them, as a copy that may be added to."""
        processed = self._processed.get(ref) if ref else None
        if processed is None:
            processed = super()._apply_hf_processor_main(mm_items, hf_kwargs)  # type: ignore[misc]
            if ref and _size(processed) <= PROCESSED_CACHE_BYTES:
                self._processed[ref] = processed
        return BatchFeature(dict(processed))

    def _mask(
        self, images: ImageProcessorItems, index: int, kept: Sequence[int] | None
    ) -> torch.Tensor:
        size = images.get_image_size(index)
        count = self.info.get_num_image_tokens(image_width=size.width, image_height=size.height)
        if kept is None:
            return torch.ones(count, dtype=torch.bool)
        if not kept:
            raise VLLMValidationError(
                f"{KEPT_IMAGE_TOKENS} is empty: send what is left of the image as text"
            )
        if not 0 <= min(kept) <= max(kept) < count:
            raise VLLMValidationError(
                f"{KEPT_IMAGE_TOKENS} names tokens outside 0…{count - 1}: {min(kept)}…{max(kept)}"
            )
        mask = torch.zeros(count, dtype=torch.bool)
        mask[list(kept)] = True
        return mask

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        fields = super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs)  # type: ignore[misc]
        on_cpu = MultiModalFieldConfig.batched("image", keep_on_cpu=True)
        return {**fields, IMAGE_TOKEN_MASK: on_cpu, IMAGE_HASH: on_cpu}

    def _get_mm_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> MultiModalPromptUpdates:
        """What replaces each placeholder: the model's own, less the hidden image tokens."""
        updates = super()._get_mm_prompt_updates(  # type: ignore[misc]
            mm_items, _without_request_keys(hf_processor_mm_kwargs), out_mm_kwargs
        )
        images = [
            [update.with_content(_kept_content(update.content, _mask_of(item)))]
            for item, [update] in zip(
                out_mm_kwargs.get("image", ()), updates.get("image", ()), strict=True
            )
        ]
        return {**updates, "image": images}


def _without_request_keys(hf_kwargs: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in hf_kwargs.items() if name not in REQUEST_KEYS}


def _mask_of(item: MultiModalKwargsItem) -> torch.Tensor:
    return cast(torch.Tensor, item[IMAGE_TOKEN_MASK].data)


def _kept_content(whole: PromptUpdateDetails, mask: torch.Tensor) -> PromptUpdateDetails:
    """What stands for an image, less the hidden ones of its tokens.

    Args:
        mask: bool of shape (k,), true where the token stays.
    """
    tokens = torch.tensor(whole.full)
    if whole.is_embed is None:
        return PromptUpdateDetails(tokens[mask].tolist())
    is_embed = whole.is_embed(whole.full)
    stays = ~is_embed
    stays[is_embed] = mask
    kept = is_embed[stays]
    return PromptUpdateDetails(tokens[stays].tolist(), lambda _: kept)


def add_noise(pixels: torch.Tensor, steps: int, seed: int) -> torch.Tensor:
    """An image's processed pixels after so many steps of diffusion, in the same shape and dtype."""
    image, noise = noise_scales(steps)
    generator = torch.Generator().manual_seed(seed)
    epsilon = torch.randn(pixels.shape, generator=generator)
    return (image * pixels.float() + noise * epsilon).to(pixels.dtype)


def _size(processed: BatchFeature) -> int:
    """Bytes of the tensors in it."""
    values = [v for value in processed.values() for v in (value if _is_list(value) else [value])]
    return sum(value.nbytes for value in values if isinstance(value, torch.Tensor))


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


class MaskingModel:
    """Mixin before a LLaVA model: drops the rows of masked tokens from the image embeddings."""

    supports_tower_connector_lora = False  # vLLM would count the rows that are dropped here

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self.feature_cache = FeatureCache(vllm_config.additional_config.get(FEATURE_CACHE_GIB, 0.0))
        self._device = vllm_config.device_config.device

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """As the model's own. All of `feature_cache` comes from other weights from here on."""
        self.feature_cache.clear()
        return super().load_weights(weights)  # type: ignore[misc]

    def embed_multimodal(self, **kwargs: Any) -> list[torch.Tensor]:
        """Image embeddings, each (kept tokens, hidden size), in the order of the images."""
        masks, keys = kwargs.pop(IMAGE_TOKEN_MASK, None), kwargs.pop(IMAGE_HASH, None)
        embed = super().embed_multimodal  # type: ignore[misc]
        if masks is None:  # vLLM measures the memory that an image takes
            return embed(**kwargs)
        known = [bytes(key.tolist()) for key in keys]
        return self.feature_cache.embed(
            [key if key != NO_HASH else None for key in known],
            list(masks),
            lambda places: embed(
                **{name: select_items(value, places) for name, value in kwargs.items()}
            ),
            self._device,
        )
