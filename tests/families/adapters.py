"""LoRA adapters of each family, with weights that matter."""

from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.families.family import FAMILIES, Family
from tests.worker import adapters

WEIGHTS = "adapter_model.safetensors"
OURS, PUBLISHED = "model.model.language_model.", "model.language_model.model."
"""Of a language model's layers: in transformers, and in InternVL's own layout."""


def make_adapter(
    family: Family, checkpoint: Path, folder: Path, *, seed: int = 1, rank: int = 8
) -> Path:
    """Saves an adapter of the language model's linear layers whose B is not zero. One seed makes
    one adapter.

    Args:
        checkpoint: the family's. Where transformers has no model of it, the adapter is made on its
            oracle's, and named as the family's tensors are.
    """
    adapters.make_adapter(
        str(oracle_checkpoint(family, checkpoint)),
        folder,
        seed=seed,
        rank=rank,
        targets=family.lora_targets,
    )
    if family.oracle != family.name:
        rename_tensors(folder, OURS, PUBLISHED)
    return folder


def oracle_checkpoint(family: Family, checkpoint: Path) -> Path:
    """The checkpoint that transformers loads for the family's; made beside it where it is
    another."""
    if family.oracle == family.name:
        return checkpoint
    folder = checkpoint.parent / f"{checkpoint.name}-oracle"
    if not folder.is_dir():
        FAMILIES[family.oracle].make(folder)
    return folder


def rename_tensors(folder: Path, old: str, new: str) -> None:
    """In an adapter's names."""
    tensors = load_file(folder / WEIGHTS)
    renamed = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    save_file(renamed, folder / WEIGHTS, metadata={"format": "pt"})
