"""LoRA adapters with weights that matter, made by peft on a test checkpoint."""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText

LANGUAGE_MODEL = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"


def make_adapter(
    checkpoint: str, folder: Path, *, seed: int, rank: int = 8, targets: str = LANGUAGE_MODEL
) -> Path:
    """Saves an adapter whose B is not zero, so that it changes what is written. One seed makes one
    adapter."""
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_A" in name:  # as peft does, but from the seed
            torch.nn.init.kaiming_uniform_(parameter, a=5**0.5, generator=generator)
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05, generator=generator)
    adapted.save_pretrained(folder)
    return folder
