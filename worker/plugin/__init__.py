"""The vLLM plugin: models that can leave image tokens out.

vLLM loads it through the entry-point group `vllm.general_plugins` in every process of the engine.
It registers, under the same architecture names, subclasses of vLLM's own models whose requests may
carry a mask over the image's tokens. What is masked is not computed: the sequence is shorter.
"""

from worker.plugin.families import MODEL_FAMILIES
from worker.plugin.parent_death import exit_with_parent


def register() -> None:
    """vLLM's entry point. Names the classes; vLLM imports them when a model needs them."""
    from vllm import ModelRegistry

    from worker.plugin.chunked_prefill import patch_cpu_model_runner

    exit_with_parent()
    patch_cpu_model_runner()
    for architecture, module in MODEL_FAMILIES.items():
        ModelRegistry.register_model(architecture, f"worker.plugin.{module}:MaskedModel")
