"""How conversations and pictures become inputs: settings that worker and trainer share."""

from typing import Any

from pydantic_settings import BaseSettings


class InputSettings(BaseSettings):
    """Give workers and trainers of one namespace the same: a trainer refuses pairs that were made
    with others."""

    chat_template: str | None = None
    """The chat template in place of the checkpoint's: a file, or the name of one of the several
    that the checkpoint has."""
    chat_template_kwargs: dict[str, Any] = {}
    """Variables of the chat template, as JSON, such as `{"enable_thinking": false}`."""
    mm_processor_kwargs: dict[str, Any] = {}
    """Arguments of the checkpoint's processor of pictures, as JSON, such as
    `{"max_pixels": 501760}`. As vLLM's."""
