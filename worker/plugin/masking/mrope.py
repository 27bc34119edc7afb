"""Positions that are no running count (M-RoPE): what stays keeps those of the whole prompt."""

from dataclasses import replace
from typing import Any

import torch
from vllm.multimodal.inputs import PlaceholderRange

from worker.plugin.masking import fields
from worker.plugin.masking.processor import stays_in_prompt


class MaskingMRoPE:
    """Mixin before `MaskingModel`, for a model that computes a prompt's positions from its images'
    grids (vLLM's `SupportsMRoPE`)."""

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[Any]
    ) -> tuple[torch.Tensor, int]:
        """Positions, int64 (3, tokens), of the prompt in which image tokens are left out; and what
        is added to a later token's index to get its position.

        The model's own positions of the whole prompt are computed, and those of what stays taken.
        """
        tokens: list[int] = []
        stays: list[bool] = []
        features: list[Any] = []
        done = 0
        for feature in sorted(mm_features, key=lambda f: f.mm_position.offset):
            place, item = feature.mm_position, feature.data
            tokens += input_tokens[done : place.offset]
            stays += [True] * (place.offset - done)
            done = place.offset + place.length
            whole, is_embed = input_tokens[place.offset : done], place.is_embed
            image_stays = [True] * place.length
            if item is not None and fields.MASK in item:
                whole, is_embed = (
                    item[fields.WHOLE_TOKENS].data.tolist(),
                    item[fields.IS_EMBED].data,
                )
                image_stays = stays_in_prompt(is_embed, item[fields.MASK].data).tolist()
                if not any(image_stays):  # it has taken the token before it for its own
                    tokens += input_tokens[place.offset : done]
                    stays += [True] * place.length
            position = PlaceholderRange(offset=len(tokens), length=len(whole), is_embed=is_embed)
            features.append(replace(feature, mm_position=position))
            tokens += whole
            stays += image_stays
        tokens += input_tokens[done:]
        stays += [True] * (len(input_tokens) - done)
        positions, delta = super().get_mrope_input_positions(tokens, features)  # type: ignore[misc]
        left_out = len(tokens) - len(input_tokens)
        return positions[:, torch.tensor(stays)], delta + left_out
