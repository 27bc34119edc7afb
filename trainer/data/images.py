"""Where an example's image is, and its bytes as the service takes them."""

import base64
import binascii
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from service import images
from trainer.data.example import ImageNotFound, ImageSource, ImageUnreadable, shortened

COLUMNS = ("images", "image", "image_path", "img_path")
"""Where rows have their images; of several that a row has, the first counts."""

_LIKE_A_PICTURE = re.compile(r"image|img|picture|photo|pixel|video", re.IGNORECASE)
_FILE_OF_PICTURE = re.compile(r"\S+\.(?:jpe?g|png|webp|gif|bmp|tiff?|avif|heic|mp4)", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{64,}=*\s*")
_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
"""First bytes of PNG, JPEG, GIF, WEBP, BMP and TIFF."""
NAME_CHARACTERS = 100
"""Of a file's name, in messages."""


def images_of_row(row: Mapping[str, Any]) -> tuple[ImageSource, ...]:
    """The images of a row: of the first of `COLUMNS` in which there are some.

    Raises: ValueError, too where there are none, but another column looks like a picture: what was
    asked about one would otherwise be asked without it.
    """
    for column in COLUMNS:
        if images := images_of_column(row.get(column)):
            return images
    for column, value in row.items():
        if column not in COLUMNS and _looks_like_a_picture(column, value):
            raise ValueError(
                f"has no image in {', '.join(COLUMNS)}, but its column `{column}` looks like one. "
                "Rename it `image`, or leave it out if the row is of text alone."
            )
    return ()


def _looks_like_a_picture(column: str, value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_looks_like_a_picture(column, entry) for entry in value)
    if isinstance(value, dict):
        return "bytes" in value
    if isinstance(value, str):
        of_picture = _FILE_OF_PICTURE.fullmatch(value) or images.DATA_URI.match(value)
        return bool(of_picture or (value and _LIKE_A_PICTURE.search(column)))
    return isinstance(value, bytes | Image.Image) or bool(value and _LIKE_A_PICTURE.search(column))


def images_of_column(value: Any) -> tuple[ImageSource, ...]:
    """The images in a row's column: a name, bytes, base64, {bytes, path}, or a list of these."""
    if value is None:
        return ()
    if isinstance(value, list):
        return tuple(source for entry in value for source in images_of_column(entry))
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, Image.Image):
        return (_png(value),)
    if not isinstance(value, str | bytes):
        raise ValueError(f"an image is {type(value).__name__}, not a file's name and not bytes")
    if not value:
        raise ValueError("an image is empty: neither a file's name nor bytes")
    return (_of_text(value) if isinstance(value, str) else value,)


def _of_text(text: str) -> str | bytes:
    """The bytes of base64, with or without `data:…` in front; another text is a name."""
    uri = images.DATA_URI.match(text)
    if uri is None and not _BASE64.fullmatch(text):
        return text
    try:
        content = base64.b64decode("".join(text[uri.end() if uri else 0 :].split()), validate=True)
    except binascii.Error as error:
        if uri is None:
            return text
        raise ImageUnreadable(f"an image's data URI is not base64: {error}") from None
    return content if uri or content.startswith(_STARTS) else text


def find_image(source: ImageSource, folders: Sequence[Path]) -> ImageSource:
    """The file of a name: as it stands below one of the folders, the first that has it; if none
    has, below one of them by its last part.

    Raises: ValueError, with where it was looked for.
    """
    if not isinstance(source, str):
        return source
    name = shortened(source, NAME_CHARACTERS)
    if "://" in source:
        raise ImageNotFound(
            f"the image {name} is a URL, and URLs are not fetched. Download the images and name "
            "their folder with --images."
        )
    folders = list(dict.fromkeys(folders))
    whole = [file for folder in folders if _is_file(file := folder / source)]
    if whole:
        return whole[0]
    last = [file for folder in folders if _is_file(file := folder / Path(source).name)]
    if len({file.resolve() for file in last}) > 1:
        raise ImageNotFound(
            f"the image {name} could be {' or '.join(map(str, last))}. Name with --images the "
            f"folder in which it is {name}."
        )
    if last:
        return last[0]
    looked = ", ".join(map(str, folders))
    raise ImageNotFound(f"there is no image {name} in {looked}. Name its folder with --images.")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


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
        reason = str(error) or type(error).__name__
        raise ImageUnreadable(f"{name} cannot be read: {reason}") from error


def _png(image: Image.Image) -> bytes:
    """The first frame, if there are several, as a model sees it."""
    out = io.BytesIO()
    images.to_rgb(image).save(out, "PNG")
    return out.getvalue()
