"""An image as the engine takes it."""

from dataclasses import dataclass

from PIL import Image

from service import images


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A decoded image and the hash of its encoded bytes, by which the engine caches it."""

    ref: str
    """`sha256:<hex>`"""
    image: Image.Image

    @classmethod
    def decode(cls, ref: str, data: bytes) -> "DecodedImage":
        """Decodes what the service stores: PNG, JPEG or WEBP."""
        return cls(ref, images.decode_rgb(data))
