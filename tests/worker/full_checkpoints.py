"""Checkpoints with weights that are not the model's own, as a trainer publishes them."""

from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from trainer.settings import Part
from trainer.weights import full_weights


def make_full(checkpoint: str, folder: Path, *, seed: int, parts: tuple[Part, ...]) -> Path:
    """Saves the checkpoint with noise on the matrices of some parts, so that it writes others."""
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    for name, weights in model.named_parameters():
        if weights.dim() > 1 and any(full_weights.PARTS[part].match(name) for part in parts):
            noise = torch.randn(weights.shape, generator=generator)
            weights.data += 0.3 * weights.std() * noise
    folder.mkdir()
    processor = AutoProcessor.from_pretrained(checkpoint)
    full_weights.save_full_weights(model, processor, model.state_dict(), folder, torch.float32)
    return folder
