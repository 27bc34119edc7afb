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

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""What an adapter may hold of each layer."""

KEY = re.compile(
    r"base_model\.model\.(?:model\.)?language_model\.(?:model\.)?layers\.(\d+)\."
    r"(?:self_attn|mlp)\.(\w+)\.lora_(A|B)\.weight"
)
"""As peft names the language model's linear layers, under transformers 5 and before it."""

UNSUPPORTED = ("use_dora", "lora_bias", "modules_to_save", "layer_replication", "use_qalora")
"""Settings of peft under which the engine would not compute what was trained."""


def check_adapter(folder: Path, text_config: Any, max_rank: int) -> None:
    """Raises: BadWeights, with the key or setting that the engine would not apply.

    `text_config` is the transformers config of the language model that the adapter is for.
    """
    settings = _settings(folder)
    if settings.get("peft_type") != "LORA":
        raise BadWeights(f"{CONFIG}: peft_type is {settings.get('peft_type')!r}, not LORA")
    for name in UNSUPPORTED:
        if settings.get(name):
            raise BadWeights(f"{CONFIG}: {name} is set, which the engine does not support")
    if settings.get("bias", "none") != "none":
        raise BadWeights(f"{CONFIG}: bias is {settings['bias']!r}; only 'none' is supported")
    shapes = _layer_shapes(text_config)
    halves: dict[tuple[str, str], set[str]] = {}
    for key, (rows, columns) in _tensors(folder).items():
        match = KEY.fullmatch(key)
        if match is None or match[2] not in shapes:
            raise BadWeights(
                f"{key} is of no linear layer of the language model; adapters carry no others "
                "(a trained projector travels as full weights)"
            )
        layer, module, half = match.groups()
        if int(layer) >= text_config.num_hidden_layers:
            raise BadWeights(f"{key}: the model has {text_config.num_hidden_layers} layers")
        inputs, outputs = shapes[module]
        rank, size = (rows, columns) if half == "A" else (columns, rows)
        wanted = inputs if half == "A" else outputs
        if size != wanted:
            raise BadWeights(f"{key} has shape ({rows}, {columns}); {module} needs a {wanted}")
        if rank > max_rank:
            raise BadWeights(f"{key} has rank {rank}; this worker takes at most {max_rank}")
        halves.setdefault((layer, module), set()).add(half)
    alone = [f"layer {n} {module}" for (n, module), found in halves.items() if len(found) < 2]
    if alone:
        raise BadWeights(f"lora_A or lora_B is missing for {alone[0]}")
    if not halves:
        raise BadWeights(f"{WEIGHTS} holds no tensors")


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


def _layer_shapes(config: Any) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of each linear layer of a Llama or Mistral block."""
    hidden, inner = config.hidden_size, config.intermediate_size
    head = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    queries, keys = head * config.num_attention_heads, head * config.num_key_value_heads
    attention = (hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)
    mlp = (hidden, inner), (hidden, inner), (inner, hidden)
    return dict(zip(MODULES, attention + mlp, strict=True))
