"""Stored images."""

from typing import Literal

from service.schemas.base import Model


class StoredImage(Model):
    """`POST /images`: an image that is stored now."""

    image: str
    """`sha256:<hex>`, to be named in `images`."""
    format: Literal["png", "jpeg", "webp"] | str
    """`png`, `jpeg` or `webp`."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    bytes: int
    """Its size, as stored."""
