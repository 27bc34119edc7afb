"""Whether the engine would take full weights whole.

vLLM only warns of tensors that a reload did not bring and of those it has no use for, and a reload
that fails half-way leaves an engine that must be started again. So a folder is judged here first:
it must hold every tensor of the model, once, in its shape, and no other.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from service.weight_store import BadWeights

INDEX = "model.safetensors.index.json"

DTYPES = {"F32", "F16", "BF16"}
"""What the engine converts to its own."""

Shape = tuple[int, ...]
Names = Callable[[Sequence[str]], list[str]]


def shapes_of(config: Any, names: Names) -> dict[str, Shape]:
    """The tensors of a model by the engine's names, without making them.

    Args:
        config: transformers' config of the model.
        names: turns a checkpoint's names into the engine's (`Engine.checkpoint_names`).
    """
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    tensors = {name: t for name, t in model.state_dict().items() if name not in tied}
    return dict(zip(names(list(tensors)), (tuple(t.shape) for t in tensors.values()), strict=True))


def check_checkpoint(folder: Path, wanted: Mapping[str, Shape], names: Names) -> None:
    """Raises: BadWeights, with the tensor that the engine would miss, ignore or not fit."""
    found: dict[str, str] = {}
    for file in _files(folder):
        try:
            with safe_open(file, "pt") as tensors:
                keys = list(tensors.keys())
                for key, name in zip(keys, names(keys), strict=True):
                    if name in found:
                        raise BadWeights(f"{key} of {file.name} is also in {found[name]}")
                    found[name] = file.name
                    part = tensors.get_slice(key)
                    _check_tensor(key, tuple(part.get_shape()), part.get_dtype(), wanted.get(name))
        except SafetensorError as error:
            raise BadWeights(f"{file.name} cannot be read: {error}") from None
    if missing := sorted(wanted.keys() - found.keys()):
        raise BadWeights(f"{missing[0]} is missing{_others(missing)}")


def _check_tensor(key: str, shape: Shape, dtype: str, wanted: Shape | None) -> None:
    if wanted is None:
        raise BadWeights(f"{key} is of nothing that the model has")
    if shape != wanted:
        raise BadWeights(f"{key} has shape {shape}; the model needs {wanted}")
    if dtype not in DTYPES:
        raise BadWeights(f"{key} is {dtype}; the engine takes {', '.join(sorted(DTYPES))}")


def _files(folder: Path) -> list[Path]:
    """What vLLM would read: with an index, only the files that it names."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise BadWeights("there is no file of safetensors in it")
    index = folder / INDEX
    if not index.is_file():
        if len(files) > 1:
            raise BadWeights(f"there are {len(files)} files of weights, and no {INDEX}")
        return files
    try:
        named = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadWeights(f"{INDEX} cannot be read: {error!r}") from None
    if wrong := sorted(named ^ {file.name for file in files}):
        raise BadWeights(f"{INDEX} and the files that are there differ by {wrong[0]}")
    return files


def _others(names: Sequence[str]) -> str:
    return f", and {len(names) - 1} more" if len(names) > 1 else ""
