"""A model's processor that leaves image tokens out of the prompt, and adds noise to pixels."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from cachetools import LRUCache
from PIL import Image
from transformers import BatchFeature
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.inputs import MultiModalKwargsItem, MultiModalKwargsItems
from vllm.multimodal.parse import MultiModalDataItems
from vllm.multimodal.processing import PromptUpdateDetails
from vllm.multimodal.processing.processor import PlaceholderFeaturesInfo

from service.schemas import ImageView
from worker.bdhs.noise import noise_scales
from worker.plugin.image_views import image_views
from worker.plugin.masking import fields
from worker.plugin.masking.request import (
    IMAGE_REQUESTS,
    ImageRequest,
    image_requests,
    without_image_requests,
)

PROCESSED_CACHE_BYTES = 512 * 2**20
"""Bound on the processed images kept in the worker's process: some 75 at LLaVA-NeXT's 336 px."""

PIXEL_FIELDS = ("pixel_values", "images")
"""How the names of fields begin that hold an image's pixels."""


@dataclass(frozen=True, slots=True)
class Placeholder:
    """What stands for a whole image in a prompt."""

    target: list[int]
    """In the prompt that is sent to vLLM. Empty: nothing does, vLLM inserts the image at a place of
    its own."""
    tokens: list[int]
    """In the prompt that is computed."""
    is_embed: list[bool]
    """Which of those are the k image tokens; the others stay whatever is hidden."""
    views: list[ImageView]
    """How the image tokens cover the picture; empty: not known."""

    @property
    def image_tokens(self) -> int:
        """k."""
        return sum(self.is_embed)


class MaskingProcessor:
    """Mixin before any multimodal processor of vLLM. `masked_model` puts it there."""

    info: Any
    _processed: LRUCache[tuple[str, ...], BatchFeature]
    """Pixels of the pictures of a prompt, as transformers' processor made them, by their refs."""

    def placeholder(self, image: Image.Image, ref: str) -> Placeholder:
        """What stands for this picture in a prompt. Its pixels are kept for the requests to come.

        Raises: what the model's processor raises.
        """
        items = self.info.parse_mm_data({"image": [image]})
        kwargs = {IMAGE_REQUESTS: [ImageRequest(ref)]}
        processed = self._apply_hf_processor_main(items, kwargs)
        made = MultiModalKwargsItems.from_hf_inputs(
            processed, self._get_mm_fields_config(processed, {})
        )
        update = self._get_mm_prompt_updates(items, kwargs, made)["image"][0][0]
        item = made["image"][0]
        is_embed: list[bool] = item[fields.IS_EMBED].data.tolist()  # type: ignore[union-attr]
        return Placeholder(
            target=update.target if isinstance(update.target, list) else [],
            tokens=item[fields.WHOLE_TOKENS].data.tolist(),  # type: ignore[union-attr]
            is_embed=is_embed,
            views=image_views(self.info, item, image.size, sum(is_embed)),
        )

    def _get_mm_hashes(self, inputs: Any) -> Any:
        """Two views of one image have two hashes, in one prompt, too: they share no cached
        embeddings and no key-value blocks."""
        kwargs = inputs.hf_processor_mm_kwargs
        theirs = replace(inputs, hf_processor_mm_kwargs=without_image_requests(kwargs))
        hashes = super()._get_mm_hashes(theirs)  # type: ignore[misc]
        requests = image_requests(kwargs)
        if requests is None:
            return hashes
        images = zip(hashes["image"], requests, strict=True)
        return {**hashes, "image": [f"{whole}{request.digest}" for whole, request in images]}

    def _get_cache_missing_processor_kwargs(self, inputs: Any, mm_is_cached: Any) -> Any:
        kwargs = super()._get_cache_missing_processor_kwargs(inputs, mm_is_cached)  # type: ignore[misc]
        requests = image_requests(kwargs)
        if requests is None:
            return kwargs
        cached = zip(requests, mm_is_cached["image"], strict=True)
        return {**kwargs, IMAGE_REQUESTS: [r for r, is_cached in cached if not is_cached]}

    def _apply_hf_processor_main(
        self, mm_items: MultiModalDataItems, hf_kwargs: Mapping[str, Any]
    ) -> BatchFeature:
        requests = image_requests(hf_kwargs)
        hf_kwargs = without_image_requests(hf_kwargs)
        if not requests:
            return super()._apply_hf_processor_main(mm_items, hf_kwargs)  # type: ignore[misc]
        refs = tuple(request.ref for request in requests)
        processed = self._processed.get(refs)
        if processed is None:
            processed = super()._apply_hf_processor_main(mm_items, hf_kwargs)  # type: ignore[misc]
            if tensor_bytes(processed) <= PROCESSED_CACHE_BYTES:
                self._processed[refs] = processed
        return BatchFeature(dict(processed))  # a copy, which may be added to

    def _get_mm_fields_config(self, hf_inputs: Any, hf_kwargs: Mapping[str, Any]) -> Any:
        return super()._get_mm_fields_config(hf_inputs, without_image_requests(hf_kwargs))  # type: ignore[misc]

    def _get_mm_prompt_updates(
        self, mm_items: MultiModalDataItems, hf_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Any:
        """What replaces each placeholder: the model's own, less the hidden image tokens."""
        updates = dict(
            super()._get_mm_prompt_updates(  # type: ignore[misc]
                mm_items, without_image_requests(hf_kwargs), out_mm_kwargs
            )
        )
        if "image" in updates:
            items = out_mm_kwargs.get("image", ())
            requests = image_requests(hf_kwargs)
            updates["image"] = [
                [self._masked(update, item, request) for update in alternatives]
                for item, alternatives, request in zip(
                    items, updates["image"], requests or [None] * len(items), strict=True
                )
            ]
        return updates

    def _masked(self, update: Any, item: MultiModalKwargsItem, request: ImageRequest | None) -> Any:
        """The update with what is left of its image; `item` is told what was left out."""
        content: PromptUpdateDetails = update.content
        tokens = torch.tensor(content.full)
        is_embed = torch.ones(len(tokens), dtype=torch.bool)
        if content.is_embed is not None:
            is_embed = content.is_embed(content.full)
        mask = _mask(int(is_embed.sum()), request)
        if fields.LAYOUT not in item:  # the first of the item's alternatives
            _add_noise(item, request)
            own = [fields.field_layout(item[name]) for name in fields.model_fields(item)]
            fields.put(item, fields.LAYOUT, torch.tensor(own))
            fields.put(item, fields.IMAGE_HASH, _image_hash(request))
        fields.put(item, fields.MASK, mask)
        fields.put(item, fields.WHOLE_TOKENS, tokens)
        fields.put(item, fields.IS_EMBED, is_embed)
        stays = stays_in_prompt(is_embed, mask)
        kept = is_embed[stays]
        masked = update.with_content(PromptUpdateDetails(tokens[stays].tolist(), lambda _: kept))
        if request is not None and isinstance(update.target, list) and len(update.target) > 1:
            # Text that no single token stands for is not found again among its neighbours. Our
            # prompts have the one token in its place that embeddings go on.
            masked = masked.with_target([int(tokens[is_embed][0])])
        return masked

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """As the model's own, and certain that as many embeddings have a place as rows stay: a
        processor with ways of its own must fail here, where it fails one request."""
        made = super().apply(inputs, timing_ctx)  # type: ignore[misc]
        for request, place in zip(
            image_requests(inputs.hf_processor_mm_kwargs) or (),
            made["mm_placeholders"].get("image", ()),
            strict=False,
        ):
            if request.kept is not None and place.get_num_embeds() != len(request.kept):
                raise VLLMValidationError(
                    f"{type(self).__name__} made {place.get_num_embeds()} places for the "
                    f"{len(request.kept)} image tokens that stay"
                )
        return made

    def _apply_prompt_updates(self, token_ids: list[int], mm_prompt_updates: Any) -> Any:
        images = mm_prompt_updates.get("image", ())
        if any(update.content.full == [] for alternatives in images for update in alternatives):
            return _with_images(token_ids, [update for update, *_ in images])
        return super()._apply_prompt_updates(token_ids, mm_prompt_updates)  # type: ignore[misc]


def _with_images(token_ids: list[int], updates: Sequence[Any]) -> tuple[list[int], Any]:
    """As vLLM's own `_apply_prompt_updates`, for prompts with an image that is hidden whole: vLLM
    takes none of which nothing is in the prompt, so it has the token before it for its own, as one
    without an embedding."""
    prompt: list[int] = []
    found: list[PlaceholderFeaturesInfo] = []
    done = 0
    for index, update in enumerate(updates):
        match = next(update.iter_token_matches(token_ids, start_idx=done), None)
        if match is None:
            raise VLLMValidationError(f"image {index} has no placeholder in the prompt")
        prompt += token_ids[done : match.start_idx]
        content: PromptUpdateDetails = update.content
        tokens, is_embed = content.full, content.is_embed and content.is_embed(content.full)
        start = len(prompt)
        if not tokens:
            if match.start_idx == done:
                raise VLLMValidationError(
                    f"no token stands before image {index}, which is hidden whole, or only an image"
                )
            start -= 1
            tokens, is_embed = prompt[-1:], torch.zeros(1, dtype=torch.bool)
        prompt += content.full
        found.append(PlaceholderFeaturesInfo("image", index, start, tokens, is_embed))
        done = match.end_idx
    return prompt + token_ids[done:], {"image": found}


def stays_in_prompt(is_embed: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """bool, shape (n,): which of the tokens that stand for an image stay in the prompt.

    Args:
        is_embed: bool, shape (n,).
        mask: bool, shape (k,).
    """
    stays = ~is_embed
    stays[is_embed] = mask
    return stays


def _mask(image_tokens: int, request: ImageRequest | None) -> torch.Tensor:
    kept = None if request is None else request.kept
    if kept is None:
        return torch.ones(image_tokens, dtype=torch.bool)
    if kept and not 0 <= min(kept) <= max(kept) < image_tokens:
        raise VLLMValidationError(
            f"the image tokens that stay are outside 0…{image_tokens - 1}: {min(kept)}…{max(kept)}"
        )
    mask = torch.zeros(image_tokens, dtype=torch.bool)
    mask[list(kept)] = True
    return mask


def _image_hash(request: ImageRequest | None) -> torch.Tensor:
    known = request is not None and request.ref and request.noise is None
    digest = hashlib.sha256(request.ref.encode()).digest() if request and known else fields.NO_HASH
    return torch.tensor(list(digest), dtype=torch.uint8)


def _add_noise(item: MultiModalKwargsItem, request: ImageRequest | None) -> None:
    if request is None or request.noise is None:
        return
    names = [name for name in item if name.startswith(PIXEL_FIELDS)]
    if not names or not all(_is_float(item[name].data) for name in names):
        raise VLLMValidationError(
            f"there are no normalised pixels to add noise to, only {', '.join(sorted(item))}"
        )
    for name in names:
        item[name] = replace(item[name], data=add_noise(item[name].data, *request.noise))


def add_noise(pixels: Any, steps: int, seed: int) -> Any:
    """An image's processed pixels after so many steps of diffusion, in the same shape and dtype.

    Args:
        pixels: a tensor, or a list of them, one for each tile.
    """
    image, noise = noise_scales(steps)
    generator = torch.Generator().manual_seed(seed)

    def after(tensor: torch.Tensor) -> torch.Tensor:
        epsilon = torch.randn(tensor.shape, generator=generator)
        return (image * tensor.float() + noise * epsilon).to(tensor.dtype)

    return after(pixels) if isinstance(pixels, torch.Tensor) else [after(p) for p in pixels]


def _is_float(data: Any) -> bool:
    first = data if isinstance(data, torch.Tensor) else next(iter(data), None)
    return isinstance(first, torch.Tensor) and first.is_floating_point()


def tensor_bytes(processed: Mapping[str, Any]) -> int:
    """Bytes of the tensors in what a processor made."""
    values = [v for value in processed.values() for v in (value if _is_list(value) else [value])]
    return sum(value.nbytes for value in values if isinstance(value, torch.Tensor))


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)
