"""The vLLM plugin: models that can leave image tokens out.

vLLM loads it through the entry-point group `vllm.general_plugins` in every process of the engine.
It registers, under the same architecture names, subclasses of vLLM's own models whose requests may
carry a mask over each image's tokens. What is masked is not computed: the sequence is shorter.
"""

import hashlib
from pathlib import Path

from worker.plugin.families import multimodal_architectures
from worker.plugin.parent_death import exit_with_parent


def register() -> None:
    """vLLM's entry point. Names the classes; vLLM imports them when a model needs them."""
    from vllm import ModelRegistry, __version__

    from worker.plugin.chunked_prefill import patch_cpu_model_runner

    exit_with_parent()
    patch_cpu_model_runner()
    # vLLM keeps what it found out about a class in the user's cache, by its name and the text of
    # its module, and a class of ours is made of more: of vLLM's own, and of the mixins.
    made_of = f"{__version__}-{_digest()}"
    for architecture in multimodal_architectures():
        name = f"worker.plugin.masking:{architecture}@{made_of}"
        ModelRegistry.register_model(architecture, name)


def _digest() -> str:
    sources = sorted((Path(__file__).parent / "masking").glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
