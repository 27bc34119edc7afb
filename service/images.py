"""How stored bytes become the picture that a model sees: the same for worker and trainer."""

from io import BytesIO

from PIL import Image, ImageOps


def decode_rgb(content: bytes) -> Image.Image:
    """The image in RGB, turned as its camera says."""
    with Image.open(BytesIO(content)) as image:
        return ImageOps.exif_transpose(image).convert("RGB")
