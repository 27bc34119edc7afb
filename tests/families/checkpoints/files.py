"""What a folder has beside its tokenizer: configurations, template and weights."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from transformers import PreTrainedConfig, PreTrainedModel

Names = Sequence[tuple[str, str]]
"""Beginnings of tensors' names: transformers' in memory, and the published one; the first that fits
counts."""

SCALE = 4.0
"""Fresh weights are so small that the image hardly matters; here it must."""


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def save_files(folder: Path, template: str, **files: Mapping[str, Any]) -> None:
    """The template, and JSON files by their names without `.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    for name, content in files.items():
        write_json(folder / f"{name}.json", content)


def save_weights(folder: Path, tensors: Mapping[str, torch.Tensor], names: Names = ()) -> None:
    """In float32, by published names."""
    save_torch_state_dict(
        {published(name, names): t.float().contiguous() for name, t in tensors.items()},
        folder,
        max_shard_size=2**40,
        metadata={"format": "pt"},
    )


def random_tensors(
    model_class: Callable[..., PreTrainedModel], config: PreTrainedConfig
) -> dict[str, torch.Tensor]:
    """All tensors of a model, without those that are another's."""
    torch.manual_seed(0)
    model = model_class(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                if not parameter.any():  # some begin at zero
                    parameter.normal_(0, 0.2)
                parameter.mul_(SCALE)
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    return {name: t for name, t in model.state_dict().items() if name not in tied}


def published(name: str, names: Names) -> str:
    """A tensor's published name."""
    for ours, theirs in names:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def described(config: PreTrainedConfig, architecture: str, **more: Any) -> dict[str, Any]:
    """A config.json."""
    return config.to_dict() | {"architectures": [architecture], "torch_dtype": "float32"} | more
