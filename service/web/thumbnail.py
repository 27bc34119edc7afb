"""Images as data URIs, small enough for a page that holds many."""

from base64 import b64encode
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from service import images

MAX_SIDE = 512
"""Pixels; larger images are scaled down."""
MAX_BYTES = 96 * 1024
"""A larger file is encoded anew, whatever its size in pixels."""
BROWSER_FORMATS = ("PNG", "JPEG", "WEBP")


@dataclass(frozen=True)
class Thumbnail:
    uri: str
    width: int
    height: int


def thumbnail(data: bytes) -> Thumbnail | None:
    """The image for a page, as the model gets it; None for bytes that are no image."""
    try:
        return _encode(data)
    # One image that cannot be read must not cost the reader the page. (Pillow's PNG reader raises
    # SyntaxError for a broken chunk.)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _encode(data: bytes) -> Thumbnail:
    with Image.open(BytesIO(data)) as image:
        encoding = image.format or ""
        image.draft(None, (2 * MAX_SIDE, 2 * MAX_SIDE))
        animated = getattr(image, "is_animated", False)
        shown = images.to_rgb(image)
        if (
            encoding not in BROWSER_FORMATS
            or max(shown.size) > MAX_SIDE
            or len(data) > MAX_BYTES
            or animated
        ):
            shown.thumbnail((MAX_SIDE, MAX_SIDE))
            buffer = BytesIO()
            shown.save(buffer, "WEBP", quality=82, method=2)
            encoding, data = "WEBP", buffer.getvalue()
    uri = f"data:{Image.MIME[encoding]};base64,{b64encode(data).decode()}"
    return Thumbnail(uri, *shown.size)
