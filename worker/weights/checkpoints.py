"""Whether the engine would take full weights whole.

vLLM only warns of tensors that a reload did not bring and of those it has no use for, and a reload
that fails half-way leaves an engine that must be started again. So a folder is judged here first:
it must hold every tensor of the model, once, in its shape, and no other.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from service.weight_store import BadWeights
from worker.model_shapes import ModelShapes, Shape

INDEX = "model.safetensors.index.json"

DTYPES = {"F32", "F16", "BF16"}
"""What the engine converts to its own."""


def check_checkpoint(folder: Path, model: ModelShapes) -> None:
    """Raises: BadWeights, with the tensor that the engine would miss, ignore or not fit; also for
    any folder of a model of which not all is known."""
    if not model.complete:
        raise BadWeights(
            "this model's layout is known to vLLM alone, so that full weights cannot be checked; "
            "publish adapters, or serve the checkpoint in the layout that transformers has"
        )
    found: dict[str, str] = {}
    for file in _files(folder):
        try:
            with safe_open(file, "pt") as tensors:
                keys = list(tensors.keys())
                for key, name in zip(keys, model.engine_names(keys), strict=True):
                    if name in found:
                        raise BadWeights(f"{key} of {file.name} is also in {found[name]}")
                    found[name] = file.name
                    part = tensors.get_slice(key)
                    shape = tuple(part.get_shape())
                    _check_tensor(key, shape, part.get_dtype(), model.tensors.get(name))
        except SafetensorError as error:
            raise BadWeights(f"{file.name} cannot be read: {error}") from None
    if missing := sorted(model.tensors.keys() - found.keys()):
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
