"""How the engine fails, and what it refuses."""

from worker.engine.decoded_image import DecodedImage


class EngineDied(RuntimeError):
    """The engine's process is gone or no longer answers; what it held may be run again."""


class LoadFailed(RuntimeError):
    """Full weights did not go in whole. The engine counts as dead: it may hold half of them."""


class NotEnoughMemory(RuntimeError):
    """What is free does not hold the model. Says how much is needed, and what needs less."""


class PromptTooLong(ValueError):
    """The prompt leaves no room for a single new token."""

    def __init__(self, tokens: int, limit: int):
        super().__init__(
            f"the prompt has {tokens} tokens with its image; the model takes {limit}, "
            "one of them new"
        )
        self.tokens = tokens
        self.limit = limit


class RequestRefused(ValueError):
    """vLLM refused a request for what is in it."""


class ImageRefused(RequestRefused):
    """The model's processor makes nothing of an image."""

    def __init__(self, image: DecodedImage, reason: BaseException):
        self.width, self.height = image.image.size
        super().__init__(
            f"the model's processor makes nothing of the image {image.ref} "
            f"({self.width}x{self.height}): {type(reason).__name__}: {reason}"
        )
