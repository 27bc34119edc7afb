from base64 import b64decode
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from service.web.thumbnail import MAX_BYTES, MAX_SIDE, Thumbnail, thumbnail


def encode(image: Image.Image, encoding: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, encoding, **options)
    return buffer.getvalue()


def decode(shown: Thumbnail) -> tuple[str, Image.Image]:
    kind, data = shown.uri.removeprefix("data:").split(";base64,")
    image = Image.open(BytesIO(b64decode(data)))
    image.load()
    assert image.size == (shown.width, shown.height)
    return kind, image


@pytest.mark.parametrize(
    ("encoding", "kind"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")]
)
def test_a_small_image_goes_in_as_it_is(encoding: str, kind: str) -> None:
    data = encode(Image.new("RGB", (56, 40), "red"), encoding)
    shown = thumbnail(data)
    assert shown is not None
    assert decode(shown)[0] == kind
    assert b64decode(shown.uri.split(",")[1]) == data


@pytest.mark.parametrize("encoding", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("size", [(2048, 1024), (600, 1200)])
def test_a_large_image_is_scaled_down_in_proportion(encoding: str, size: tuple[int, int]) -> None:
    shown = thumbnail(encode(Image.new("RGB", size), encoding))
    assert shown is not None
    assert max(shown.width, shown.height) == MAX_SIDE
    assert shown.width / shown.height == size[0] / size[1]
    assert decode(shown)[0] == "image/webp"


def test_a_heavy_image_is_encoded_anew() -> None:
    data = encode(Image.effect_noise((512, 512), 80).convert("RGB"), "PNG")
    assert len(data) > MAX_BYTES
    shown = thumbnail(data)
    assert shown is not None
    assert decode(shown)[0] == "image/webp"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_colour_mode_is_shown(mode: str) -> None:
    shown = thumbnail(encode(Image.new(mode, (800, 600)), "TIFF" if mode == "CMYK" else "PNG"))
    assert shown is not None
    decode(shown)


def test_an_animation_stands_still() -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    shown = thumbnail(encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    assert shown is not None
    assert not getattr(decode(shown)[1], "is_animated", False)


@pytest.mark.parametrize("size", [(60, 40), (1200, 800)])
def test_a_turned_photograph_stands_upright(size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn
    shown = thumbnail(encode(Image.new("RGB", size), "JPEG", exif=exif))
    assert shown is not None
    assert shown.width < shown.height


TRUNCATED = encode(Image.effect_noise((64, 64), 50), "PNG")[:-200]


@pytest.mark.parametrize("data", [b"", b"<svg onload=alert(1)>", b"\x89PNG\r\n\x1a\n", TRUNCATED])
def test_what_is_no_image_is_none(data: bytes) -> None:
    assert thumbnail(data) is None
