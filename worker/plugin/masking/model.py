"""A model that makes embeddings of the image tokens that stay, and of no others."""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from vllm.model_executor.models.module_mapping import MultiModelKeys

from worker.plugin.feature_cache import FeatureCache
from worker.plugin.masking import fields

FEATURE_CACHE_GIB = "prefstream_feature_cache_gib"
"""Key of vLLM's `additional_config`: bound on the engine's `FeatureCache`."""


class MaskingModel:
    """Mixin before any multimodal model of vLLM: drops the rows of hidden tokens."""

    supports_tower_connector_lora = False  # vLLM would count the rows that are dropped here
    supports_mm_device_do_normalize = False  # noise is for normalised pixels

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self.feature_cache = FeatureCache(vllm_config.additional_config.get(FEATURE_CACHE_GIB, 0.0))
        self._device = vllm_config.device_config.device
        # vLLM fills a step by the rows that stay, and the tower makes all of them: at ρ_th = 0.99
        # it would be given a hundred times of what memory was measured for.
        self._max_tower_rows: int = vllm_config.scheduler_config.max_num_encoder_input_tokens

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """As the model's own. All of `feature_cache` comes from other weights from here on."""
        self.feature_cache.clear()
        return super().load_weights(weights)  # type: ignore[misc]

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Image embeddings, each (kept tokens, hidden size), in the order of the images."""
        own = {name: kwargs.pop(name, None) for name in fields.OWN_FIELDS}
        masks = own[fields.MASK]
        if masks is None:  # another modality
            return super().embed_multimodal(**kwargs)  # type: ignore[misc]
        hashes = [bytes(image_hash.tolist()) for image_hash in own[fields.IMAGE_HASH]]
        layouts = [[tuple(row) for row in image.tolist()] for image in own[fields.LAYOUT]]
        return self.feature_cache.embed(
            [image_hash if image_hash != fields.NO_HASH else None for image_hash in hashes],
            list(masks),
            lambda places: self._embed_whole(kwargs, places, list(map(len, masks)), layouts),
            self._device,
        )

    def _embed_whole(
        self,
        batch: dict[str, Any],
        places: list[int],
        rows: list[int],
        layouts: list[list[fields.Layout]],
    ) -> list[torch.Tensor]:
        """All rows of the images at these places, each (k, hidden size).

        Args:
            batch: the model's own fields, of all images.
            rows: k, of each image of the batch.
            layouts: of each image, of each field by name.
        """
        names = fields.model_fields(batch)
        embedded: list[torch.Tensor] = []
        for group in fields.group_images(rows, places, self._max_tower_rows):
            selected = {
                name: fields.select_images(batch[name], group, [image[i] for image in layouts])
                for i, name in enumerate(names)
            }
            embedded += super().embed_multimodal(**selected)  # type: ignore[misc]
        made = [len(image) for image in embedded]
        if made != [rows[place] for place in places]:
            # vLLM runs dummy images when it starts: a model of another kind fails there.
            raise RuntimeError(
                f"the model makes {made} rows of images whose prompts have "
                f"{[rows[place] for place in places]} places for them"
            )
        return embedded


class LoRALanguageModel:
    """Mixin after `MaskingModel`, for a model of which vLLM does not say that it takes adapters,
    although its language model does. No other part of it takes any.

    Not vLLM's `SupportsLoRA` itself, whose constructor would come before the model's.
    """

    supports_lora: ClassVar = True
    is_3d_moe_weight: ClassVar = False
    is_non_gated_moe: ClassVar = False
    embedding_modules: ClassVar[dict[str, str]] = {}
    packed_modules_mapping: ClassVar[dict[str, list[str]]] = {}  # vLLM asks the language model
    lora_skip_prefixes: ClassVar[list[str]] = []
    lora_manager: Any = None

    def get_mm_mapping(self) -> MultiModelKeys:
        """Which parts are the language model, and which are not."""
        language_model = self.get_language_model()  # type: ignore[attr-defined]
        parts = dict(self.named_children())  # type: ignore[attr-defined]
        own = [n for n, part in parts.items() if part is language_model or n == "language_model"]
        others = [name for name in parts if name not in own]
        return MultiModelKeys.from_string_field(language_model=own, tower_model=others)
