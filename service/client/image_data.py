"""Images in requests."""

import base64
from pathlib import Path


def image_data(image: bytes | Path) -> str:
    """An encoded image (PNG, JPEG, WEBP), or its file, as an entry of a request's `images`."""
    content = image if isinstance(image, bytes) else image.read_bytes()
    return base64.b64encode(content).decode()
