"""How bytes become the picture that a model sees: the same at the door, for worker, feeder and
trainer."""

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

from PIL import ExifTags, Image, ImageMath

StoredFormat = Literal["png", "jpeg", "webp"]

FORMATS: dict[str, StoredFormat] = {"PNG": "png", "JPEG": "jpeg", "MPO": "jpeg", "WEBP": "webp"}
"""What is stored, by Pillow's names. MPO is a JPEG with more pictures behind it, as phones write
them: its first one counts, which every viewer shows."""

DATA_URI = re.compile(r"data:[^,]{0,256};base64,", re.IGNORECASE)
"""How a picture begins that stands as base64 in a text."""

OPENERS = ("PNG", "JPEG", "WEBP")
"""Pillow's readers of these; its reader of JPEG finds out what is MPO."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation."""

BACKGROUND = (255, 255, 255)
"""Behind what is transparent: white, as `vllm serve` has it (`rgba_background_color`)."""


class BadImage(ValueError):
    """These bytes are no picture that a model can be shown. Says why."""


class ImageTooLarge(BadImage):
    """It has more pixels than are taken."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What a file says of its picture."""

    format: StoredFormat
    width: int
    """Pixels, as stored."""
    height: int
    """Pixels, as stored."""


def check(content: bytes, max_pixels: int) -> ImageInfo:
    """Decodes it as `decode_rgb` does, unless it has too many pixels or is animated.

    Raises: BadImage, ImageTooLarge.
    """
    with _opened(content) as image:
        file_format, (width, height) = str(image.format), image.size
        if width * height > max_pixels:
            raise ImageTooLarge(
                f"The image has {width}×{height} = {width * height} pixels; at most {max_pixels} "
                "are taken (setting `max_image_pixels`)."
            )
        frames = getattr(image, "n_frames", 1)
        if frames != 1 and file_format != "MPO":
            raise BadImage(f"The image is animated ({frames} frames). Send one still image.")
        to_rgb(image)
    return ImageInfo(FORMATS[file_format], width, height)


def decode_rgb(content: bytes) -> Image.Image:
    """A stored image as a model sees it: see `to_rgb`. Raises: BadImage."""
    with _opened(content) as image:
        return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture upright, as its camera says, with 8 bits a channel, on white where it is
    transparent.

    Raises: BadImage; whatever Pillow raises for a file that is not whole.
    """
    image.load()
    orientation = _orientation(image)
    if orientation in TURNS:
        image = image.transpose(TURNS[orientation])
    if image.mode in ("I", "F"):
        raise BadImage(
            f"Its pixels are 32-bit {'integers' if image.mode == 'I' else 'floats'}, of which "
            "nothing says what is white. Save it with 8 or 16 bits."
        )
    if image.mode.startswith("I;16"):
        image = _gray8(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    opaque = Image.new("RGB", image.size, BACKGROUND)
    opaque.paste(image, mask=image.getchannel("A"))
    return opaque


def _orientation(image: Image.Image) -> int:
    """By EXIF; 1, upright, where that cannot be read: a picture with broken metadata is shown as it
    is, everywhere."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises many things here
        return 1


def _gray8(image: Image.Image) -> Image.Image:
    """16-bit grey in 8 bits: the higher ones. Pillow's own conversion makes all above 255 white."""
    wide = image.convert("I")
    gray = ImageMath.lambda_eval(lambda of: of["convert"](of["wide"] / 256, "L"), wide=wide)
    transparent = image.info.get("transparency")
    if transparent is None:
        return gray
    hidden = ImageMath.lambda_eval(
        lambda of: of["convert"]((of["wide"] != transparent) * 255, "L"), wide=wide
    )
    gray.putalpha(hidden)
    return gray


@contextmanager
def _opened(content: bytes) -> Generator[Image.Image]:
    """Raises: BadImage, ImageTooLarge, whatever is done with it."""
    try:
        with Image.open(BytesIO(content), formats=OPENERS) as image:
            yield image
    except (BadImage, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(str(error)) from None
    except Image.UnidentifiedImageError:
        raise BadImage(f"These {len(content)} bytes are no PNG, JPEG or WEBP image.") from None
    except Exception as error:
        # Whatever Pillow raises here, and it raises many things, is about these bytes.
        raise BadImage(
            f"These {len(content)} bytes do not decode as a PNG, JPEG or WEBP image: "
            f"{str(error) or type(error).__name__}."
        ) from None
