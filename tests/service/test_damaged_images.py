"""Files that are cut, overwritten and mixed up: refused at the door, or the same picture to all."""

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from service.images import BadImage, check, decode_rgb
from tests.service.test_images import encode, exif, gray16, red_and_blue

MAX_PIXELS = 10_000


def whole_files() -> list[bytes]:
    picture = red_and_blue()
    turned = exif(6).tobytes()
    clear = picture.convert("RGBA")
    clear.putalpha(128)
    return [
        encode(picture, exif=turned),
        encode(picture.convert("P"), transparency=0),
        encode(clear),
        encode(picture, "JPEG", exif=turned),
        encode(picture.convert("CMYK"), "JPEG"),
        encode(picture, "JPEG", progressive=True),
        encode(picture, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))]),
        encode(picture, "WEBP", exif=turned),
        encode(clear, "WEBP", lossless=True),
        gray16([0, 256, 65535], transparency=256),
    ]


FILES = whole_files()


@pytest.mark.parametrize("content", FILES)
def test_whole_files_pass(content: bytes) -> None:
    check(content, MAX_PIXELS)


@given(
    content=st.sampled_from(FILES),
    seed=st.integers(0, 2**32),
    overwritten=st.integers(0, 8),
    end=st.none() | st.floats(0, 1),
    tail=st.binary(max_size=20),
)
@example(content=FILES[0], seed=0, overwritten=0, end=0.0, tail=b"")
@settings(max_examples=600)
def test_what_passes_the_door_decodes(
    content: bytes, seed: int, overwritten: int, end: float | None, tail: bytes
) -> None:
    damaged = bytearray(content)
    choose = random.Random(seed)
    for _ in range(overwritten):
        damaged[choose.randrange(len(damaged))] = choose.randrange(256)
    if end is not None:
        del damaged[round(end * len(damaged)) :]
    sent = bytes(damaged) + tail
    try:
        info = check(sent, MAX_PIXELS)
    except BadImage:
        return
    first, again = decode_rgb(sent), decode_rgb(sent)
    assert first.mode == "RGB"
    assert first.size in ((info.width, info.height), (info.height, info.width))
    assert first.tobytes() == again.tobytes()
