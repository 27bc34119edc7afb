"""Every picture that a data set may hold, as a model sees it."""

import io
import struct
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from service.images import BadImage, ImageTooLarge, check, decode_rgb, to_rgb

WHITE = (255, 255, 255)
QUARTER_TURN = 6


def encode(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    said = Image.Exif()
    said[0x112] = orientation
    return said


def red_and_blue() -> Image.Image:
    """Red above, blue below, wider than high."""
    image = Image.new("RGB", (32, 16), "red")
    image.paste("blue", (0, 8, 32, 16))
    return image


def gray16(values: list[int], **options: Any) -> bytes:
    image = Image.new("I;16", (len(values), 1))
    image.putdata(values)
    return encode(image, **options)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF", "MPO"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stands_as_its_camera_says(file_format: str, orientation: int) -> None:
    """As the turned pixels themselves would: of files that the feeder reads, too."""
    options: dict[str, Any] = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100}}.get(
        file_format, {}
    )
    if file_format == "MPO":
        options = {"save_all": True, "append_images": [Image.new("RGB", (8, 8))]}
    content = encode(red_and_blue(), file_format, exif=exif(orientation).tobytes(), **options)
    with Image.open(io.BytesIO(content)) as image:
        shown = to_rgb(image)
    # Where EXIF says that the first row and column are, by its standard.
    top_left = {1: "red", 2: "red", 3: "blue", 4: "blue", 5: "red", 6: "blue", 7: "blue", 8: "red"}
    assert shown.size == ((32, 16) if orientation < 5 else (16, 32))
    red, _, blue = shown.getpixel((0, 0))  # type: ignore[misc]
    assert ("red" if red > blue else "blue") == top_left[orientation]


def test_16_bits_of_grey_become_their_higher_8() -> None:
    shown = decode_rgb(gray16([value * 257 for value in range(256)]))
    assert [shown.getpixel((x, 0)) for x in range(256)] == [(v, v, v) for v in range(256)]


TRANSPARENT: dict[str, Callable[[], bytes]] = {
    "RGBA PNG": lambda: encode(Image.new("RGBA", (4, 4), (0, 0, 0, 0))),
    "RGBA WEBP": lambda: encode(Image.new("RGBA", (4, 4), (9, 9, 9, 0)), "WEBP", lossless=True),
    "LA": lambda: encode(Image.new("LA", (4, 4), (0, 0))),
    "one colour of a palette": lambda: encode(
        Image.new("RGB", (4, 4), "red").quantize(2), transparency=0
    ),
    "alpha of each colour of a palette": lambda: encode(
        Image.new("RGB", (4, 4), "red").quantize(2), transparency=b"\0\0"
    ),
    "one grey": lambda: encode(Image.new("L", (4, 4), 7), transparency=7),
    "one colour": lambda: encode(Image.new("RGB", (4, 4), (1, 2, 3)), transparency=(1, 2, 3)),
    "black of two": lambda: encode(Image.new("1", (4, 4), 0), transparency=0),
    "one of 65,536 greys": lambda: gray16([300, 300], transparency=300),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_what_is_transparent_is_white(name: str) -> None:
    assert decode_rgb(TRANSPARENT[name]()).getpixel((0, 0)) == WHITE


def test_half_transparent_is_mixed_with_white() -> None:
    assert decode_rgb(encode(Image.new("RGBA", (4, 4), (0, 0, 0, 127)))).getpixel((0, 0)) == (
        128,
        128,
        128,
    )
    assert decode_rgb(gray16([300, 600], transparency=300)).getpixel((1, 0)) != WHITE


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [("CMYK", "JPEG"), ("L", "JPEG"), ("1", "PNG"), ("P", "PNG"), ("L", "WEBP")],
)
def test_colour_modes_keep_their_colour(mode: str, file_format: str) -> None:
    content = encode(Image.new("RGB", (16, 16), "white").convert(mode), file_format)
    assert all(channel > 250 for channel in decode_rgb(content).getpixel((8, 8)))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "entry",
    [
        struct.pack("<HHI4s", 0x11A, 2, 4, b"abc\0"),  # a resolution that is text
        struct.pack("<HHI4s", 0x100, 9, 1, struct.pack("<i", -1)),  # a width below 0
        struct.pack("<HHI4s", 0x112, 2, 4, b"abc\0"),  # an orientation that is text
        struct.pack("<HHII", 0x8769, 4, 1, 0xFFFF),  # a table that lies beyond the end
    ],
)
def test_broken_metadata_is_passed_over(entry: bytes) -> None:
    table = b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + bytes(4)
    payload = b"Exif\0\0" + table
    jpeg = encode(red_and_blue(), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload
    content = jpeg[:2] + segment + jpeg[2:]
    assert check(content, 10_000).format == "jpeg"
    assert decode_rgb(content).size == (32, 16)


def test_of_several_pictures_in_a_jpeg_the_first_is_taken() -> None:
    other = Image.new("RGB", (8, 8), "blue")
    content = encode(Image.new("RGB", (16, 8), "red"), "MPO", save_all=True, append_images=[other])
    info = check(content, 10_000)
    assert (info.format, info.width, info.height) == ("jpeg", 16, 8)
    assert decode_rgb(content).size == (16, 8)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_of_32_bits_nothing_says_what_is_white(mode: str) -> None:
    with (
        Image.open(io.BytesIO(encode(Image.new(mode, (2, 2)), "TIFF"))) as image,
        pytest.raises(BadImage, match="8 or 16 bits"),
    ):
        to_rgb(image)


def test_what_is_no_whole_still_picture_is_refused() -> None:
    noise = Image.effect_noise((64, 64), 50)
    whole = {name: encode(noise, name) for name in ("PNG", "JPEG", "WEBP")}
    for content in [
        b"",
        b"<svg/>",
        encode(noise, "GIF"),
        *(c[: len(c) // 2] for c in whole.values()),
    ]:
        with pytest.raises(BadImage, match=f"These {len(content)} bytes"):
            check(content, 10_000)
    with pytest.raises(ImageTooLarge, match="64×64 = 4096 pixels"):
        check(whole["PNG"], 4095)
