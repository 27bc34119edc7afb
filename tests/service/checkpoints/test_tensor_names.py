"""What transformers calls a tensor in memory, in a file, and what published checkpoints call it."""

import pytest

from service.checkpoints.tensor_names import published_name


@pytest.mark.parametrize(
    ("inside", "published"),
    [
        ("lm_head.weight", "language_model.lm_head.weight"),
        ("model.image_newline", "image_newline"),
        ("model.language_model.norm.weight", "language_model.model.norm.weight"),
        ("model.multi_modal_projector.linear_1.bias", "multi_modal_projector.linear_1.bias"),
        ("model.vision_tower.embeddings.x", "vision_tower.vision_model.embeddings.x"),
        ("model.vision_tower.vision_model.x", "vision_tower.vision_model.x"),
        ("vision_tower.embeddings.x", "vision_tower.vision_model.embeddings.x"),
    ],
)
def test_names_are_those_of_published_checkpoints(inside: str, published: str):
    assert published_name(inside) == published
    assert published_name(published) == published


@pytest.mark.parametrize(
    ("inside", "published"),
    [
        ("model.vision_tower.head.probe", "vision_tower.vision_model.head.probe"),
        ("model.vision_tower.ln_pre.weight", "vision_tower.ln_pre.weight"),
        ("vision_tower.patch_conv.weight", "vision_tower.patch_conv.weight"),
        ("model.vision_tower.transformer.layers.0.x", "vision_tower.transformer.layers.0.x"),
    ],
)
def test_towers_are_told_by_their_parts(inside: str, published: str):
    """SigLIP's as CLIP's; Pixtral's has no `vision_model`."""
    assert published_name(inside) == published
    assert published_name(published) == published
