"""How conversations and pictures become a model's inputs."""

from service.schemas.base import Model


class InputDigest(Model):
    """Digests of what does it: where they are equal, so are the tokens and the pixels."""

    chat_template: str
    """Of the chat template and its variables."""
    tokenizer: str
    """Of the tokenizer."""
    processor: str
    """Of the settings of the processor of pictures."""

    def differences(self, other: "InputDigest") -> list[str]:
        """The fields in which they differ."""
        mine, others = self.model_dump(), other.model_dump()
        return [name for name in mine if mine[name] != others[name]]
