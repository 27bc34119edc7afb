"""The engine: vLLM behind a small interface."""

from worker.engine.decoded_image import DecodedImage
from worker.engine.engine import Engine
from worker.engine.errors import (
    EngineDied,
    ImageRefused,
    LoadFailed,
    NotEnoughMemory,
    PromptTooLong,
    RequestRefused,
)
from worker.engine.weight_loading import weight_spans

__all__ = [
    "DecodedImage",
    "Engine",
    "EngineDied",
    "ImageRefused",
    "LoadFailed",
    "NotEnoughMemory",
    "PromptTooLong",
    "RequestRefused",
    "weight_spans",
]
