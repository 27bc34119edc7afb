"""Where an example's image is, and its bytes as the service takes them."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from service import images
from trainer.data.example import ImageSource


def images_of_column(value: Any) -> tuple[ImageSource, ...]:
    """The images in a row's column: a name, bytes, {bytes, path}, or a list of these."""
    if value is None:
        return ()
    if isinstance(value, list):
        return tuple(source for entry in value for source in images_of_column(entry))
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, Image.Image):
        return (_png(value),)
    if not isinstance(value, str | bytes) or not value:
        raise ValueError(f"an image is {type(value).__name__}, not a file's name and not bytes")
    return (value,)


def find_image(source: ImageSource, folders: Sequence[Path]) -> ImageSource:
    """The file of a name: as it stands below one of the folders, or there without its own folders.

    Raises: ValueError, with where it was looked for.
    """
    if not isinstance(source, str):
        return source
    if "://" in source:
        raise ValueError(
            f"the image {source} is a URL, and URLs are not fetched. Download the images and name "
            "their folder with --images."
        )
    for folder in folders:
        for file in (folder / source, folder / Path(source).name):
            if file.is_file():
                return file
    looked = ", ".join(str(folder) for folder in dict.fromkeys(folders))
    raise ValueError(f"there is no image {source} in {looked}. Name its folder with --images.")


def load_image(source: ImageSource) -> bytes:
    """The bytes of an image: as they are, or as PNG if the service would not take them.

    Raises: ValueError.
    """
    assert not isinstance(source, str), "call find_image first"
    try:
        content = source.read_bytes() if isinstance(source, Path) else source
        with Image.open(io.BytesIO(content)) as image:
            still = getattr(image, "n_frames", 1) == 1 or image.format == "MPO"
            if image.format in images.FORMATS and still:
                return content
            return _png(image)
    except Exception as error:  # whatever Pillow raises here is about this file
        name = source if isinstance(source, Path) else "its image"
        raise ValueError(f"{name} cannot be read: {str(error) or type(error).__name__}") from error


def _png(image: Image.Image) -> bytes:
    """The first frame, if there are several, as a model sees it."""
    out = io.BytesIO()
    images.to_rgb(image).save(out, "PNG")
    return out.getvalue()
