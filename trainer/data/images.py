"""Where an example's image is, and its bytes as the service takes them."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from trainer.data.example import Picture

SERVED = ("PNG", "JPEG", "WEBP")
"""What the service takes; other formats are encoded anew."""


def of_column(value: Any) -> tuple[Picture, ...]:
    """The images in a row's column: a name, bytes, {bytes, path}, or a list of these."""
    if value is None:
        return ()
    if isinstance(value, list):
        return tuple(picture for entry in value for picture in of_column(entry))
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, Image.Image):
        return (_png(value),)
    if not isinstance(value, str | bytes) or not value:
        raise ValueError(f"an image is {type(value).__name__}, not a file's name and not bytes")
    return (value,)


def find(picture: Picture, folders: Sequence[Path]) -> Picture:
    """The file of a name: as it stands below one of the folders, or there without its own folders.

    Raises: ValueError, with where it was looked for.
    """
    if not isinstance(picture, str):
        return picture
    if "://" in picture:
        raise ValueError(
            f"the image {picture} is a URL, and URLs are not fetched. Download the images and name "
            "their folder with --images."
        )
    for folder in folders:
        for file in (folder / picture, folder / Path(picture).name):
            if file.is_file():
                return file
    looked = ", ".join(str(folder) for folder in dict.fromkeys(folders))
    raise ValueError(f"there is no image {picture} in {looked}. Name its folder with --images.")


def load(picture: Picture) -> bytes:
    """The bytes of an image: as they are, or as PNG if the service would not take them.

    Raises: ValueError.
    """
    assert not isinstance(picture, str), "find it first"
    try:
        content = picture.read_bytes() if isinstance(picture, Path) else picture
        with Image.open(io.BytesIO(content)) as image:
            if image.format in SERVED and getattr(image, "n_frames", 1) == 1:
                return content
            return _png(image)
    except (OSError, Image.DecompressionBombError) as error:
        name = picture if isinstance(picture, Path) else "its image"
        raise ValueError(f"{name} cannot be read: {error}") from error


def _png(image: Image.Image) -> bytes:
    """The first frame, if there are several."""
    out = io.BytesIO()
    image.convert("RGB").save(out, "PNG")
    return out.getvalue()
