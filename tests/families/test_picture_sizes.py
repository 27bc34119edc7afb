"""Pictures of every shape: worker and trainer make as many tokens of one, or both refuse it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL.Image import Image
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.plugins import load_general_plugins
from vllm.usage.usage_lib import UsageContext

from tests.families.family import FAMILIES, Family
from tests.families.pictures import picture
from worker.engine import Engine
from worker.plugin.masking import Placeholder
from worker.settings import WorkerSettings

SIZES = [
    *[(1, 1), (2, 2), (3, 3), (3, 4), (4, 3), (1, 3), (3, 1), (1, 64), (64, 1), (3, 200), (200, 3)],
    *[(161, 184), (700, 840), (337, 335), (29, 31), (2, 1000), (1000, 2), (1, 9000), (9000, 1)],
]

LONGEST = {"qwen": 200, "mistral3": 150}
"""Start of a family's name → the ratio of sides above which its own processor refuses a picture."""

REFUSED = "aspect ratio|Size must contain|Failed to apply"
"""By transformers, by transformers' Pixtral, by vLLM in the name of both."""


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.filterwarnings("ignore:The channel dimension is ambiguous")
def test_a_picture_of_any_shape(family: Family, checkpoint: Callable[[str], Path]) -> None:
    trust = {"trust_remote_code": True} if family.trust_remote_code else {}
    engine = Engine(
        WorkerSettings(model=str(checkpoint(family.name)), unproven=True, engine_args=trust)
    )
    engine.read_config()
    load_general_plugins()
    config = engine._args().create_engine_config(UsageContext.ENGINE_CONTEXT)
    processor: Any = MULTIMODAL_REGISTRY.create_processor(config.model_config)
    longest = next((r for name, r in LONGEST.items() if family.name.startswith(name)), 10**6)
    for number, (width, height) in enumerate(SIZES):
        shown = picture(width, height, number)
        if max(width, height) / min(width, height) > longest:
            with pytest.raises(ValueError, match=REFUSED):
                processor.placeholder(shown, str(number))
            with pytest.raises(ValueError, match=REFUSED):
                engine.inputs.process_images([shown])
            continue
        placeholder: Placeholder = processor.placeholder(shown, str(number))
        assert bool(placeholder.views) == family.views, (width, height)
        if not family.trust_remote_code:
            assert tokens_of(engine, shown) == placeholder.image_tokens, (width, height)


def tokens_of(engine: Engine, shown: Image) -> int:
    """Image tokens, by what the trainer makes of it."""
    [tokens], _ = engine.inputs.process_images([shown])
    return tokens.count(engine.inputs.feature_token_id)
