"""The names of a LLaVA checkpoint's tensors.

transformers 5 names the parts of a model in memory otherwise than published LLaVA checkpoints do,
and a CLIP or SigLIP tower of what it saves as well. Every version of transformers and vLLM reads
the published names, so those are the ones that workers load, check by, and trainers publish.
"""

import re

Rewrite = tuple[re.Pattern[str], str]

CLIP_TOWER: Rewrite = (
    re.compile(
        r"^(model\.)?vision_tower\.(?=(embeddings|encoder|pre_layrnorm|post_layernorm|head)\.)"
    ),
    "vision_tower.vision_model.",
)
"""Of CLIP's and SigLIP's towers, told from others, such as Pixtral's, by the names of their
parts."""

PUBLISHED_NAMES: tuple[Rewrite, ...] = (
    CLIP_TOWER,
    (re.compile(r"^model\.language_model\."), "language_model.model."),
    (re.compile(r"^lm_head\."), "language_model.lm_head."),
    (re.compile(r"^model\."), ""),
)
"""Rewrites, applied in this order. A published name stays as it is."""


def published_name(name: str) -> str:
    """A tensor's name in published checkpoints; `name` is transformers', of any version."""
    for pattern, replacement in PUBLISHED_NAMES:
        name = pattern.sub(replacement, name)
    return name
