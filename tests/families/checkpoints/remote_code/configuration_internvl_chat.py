"""What the folder of an InternVLChatModel brings along: its configuration. In words of our own."""

from typing import Any

from transformers import PretrainedConfig, Qwen2Config


class InternVisionConfig(PretrainedConfig):
    """Of the tower."""

    model_type = "intern_vit_6b"


class InternVLChatConfig(PretrainedConfig):
    """Of the tower, what joins it to the language model, and that."""

    model_type = "internvl_chat"
    is_composition = True

    def __init__(
        self,
        vision_config: dict[str, Any] | None = None,
        llm_config: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(**more)
        self.vision_config = InternVisionConfig(**(vision_config or {}))
        self.llm_config = Qwen2Config(**(llm_config or {}))
