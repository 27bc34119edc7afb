"""Whether the engine would apply a LoRA adapter whole.

vLLM ignores some keys in silence (a projector's, for LLaVA-NeXT), and a bad adapter that a request
names kills its process. So a folder is judged here, before the engine hears of it: every tensor
must be of a linear layer of the language model that exists, in its shape, at a rank that fits.
"""

import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from service.weight_store import BadWeights
from worker.model_shapes import ModelShapes

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

PEFT_KEY = re.compile(r"base_model\.model\.(.+)\.lora_(A|B)\.weight")
"""How peft names the tensors of an adapted layer: the layer's name in the model, and which half."""

UNSUPPORTED = ("use_dora", "lora_bias", "modules_to_save", "layer_replication", "use_qalora")
"""Settings of peft under which the engine would not compute what was trained."""


def check_adapter(folder: Path, model: ModelShapes, max_rank: int) -> None:
    """Raises: BadWeights, with the key or setting that the engine would not apply."""
    settings = _settings(folder)
    if settings.get("peft_type") != "LORA":
        raise BadWeights(f"{CONFIG}: peft_type is {settings.get('peft_type')!r}, not LORA")
    for name in UNSUPPORTED:
        if settings.get(name):
            raise BadWeights(f"{CONFIG}: {name} is set, which the engine does not support")
    if settings.get("bias", "none") != "none":
        raise BadWeights(f"{CONFIG}: bias is {settings['bias']!r}; only 'none' is supported")
    halves: dict[str, set[str]] = {}
    for key, (rows, columns) in _tensors(folder).items():
        layer, half = _layer_and_half(key, model)
        outputs, inputs = model.linear_layers[layer]
        module = layer.rpartition(".")[2]
        rank, size, wanted = (rows, columns, inputs) if half == "A" else (columns, rows, outputs)
        if size != wanted:
            raise BadWeights(f"{key} has shape ({rows}, {columns}); {module} needs a {wanted}")
        if rank > max_rank:
            raise BadWeights(f"{key} has rank {rank}; this worker takes at most {max_rank}")
        halves.setdefault(layer, set()).add(half)
    for layer, found in halves.items():
        for half in {"A", "B"} - found:
            raise BadWeights(f"lora_{half} is missing for layer {layer}")
    if not halves:
        raise BadWeights(f"{WEIGHTS} holds no tensors")


def _layer_and_half(key: str, model: ModelShapes) -> tuple[str, str]:
    """Of which linear layer a tensor is, by the engine's name, and whether it is its A or B."""
    match = PEFT_KEY.fullmatch(key)
    if match is not None:
        [weight] = model.engine_names([f"{match[1]}.weight"])
        layer = weight.removesuffix(".weight")
        if layer in model.linear_layers:
            return layer, match[2]
        alike = sum(_without_numbers(layer) == _without_numbers(n) for n in model.linear_layers)
        if alike:
            raise BadWeights(f"{key}: the model has {alike} layers of this kind, and not this one")
    raise BadWeights(
        f"{key} is of no linear layer of the language model; adapters carry no others "
        "(a trained projector travels as full weights)"
    )


def _without_numbers(name: str) -> str:
    return re.sub(r"\d+", "", name)


def _settings(folder: Path) -> dict[str, Any]:
    try:
        settings = json.loads((folder / CONFIG).read_text())
    except FileNotFoundError:
        raise BadWeights(f"{CONFIG} is missing") from None
    except ValueError as error:
        raise BadWeights(f"{CONFIG} cannot be read: {error}") from None
    if not isinstance(settings, dict):
        raise BadWeights(f"{CONFIG} is no object")
    return settings


def _tensors(folder: Path) -> dict[str, tuple[int, int]]:
    """Names and shapes of the adapter's tensors. Only safetensors are opened: nothing unpickles."""
    try:
        with safe_open(folder / WEIGHTS, "pt") as tensors:
            names = tensors.keys()
            shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in names}
    except FileNotFoundError:
        raise BadWeights(f"{WEIGHTS} is missing") from None
    except SafetensorError as error:
        raise BadWeights(f"{WEIGHTS} cannot be read: {error}") from None
    for key, shape in shapes.items():
        if len(shape) != 2:
            raise BadWeights(f"{key} has {len(shape)} dimensions, not 2")
    return shapes
