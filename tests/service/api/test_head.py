"""What comes before a body is bounded before anybody is asked for a key."""

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from service.api.protocol import MAX_HEAD_BYTES
from service.settings import Settings
from tests.servers import Server
from tests.service.http import served

PIECE = b"x" * 2**20
LARGE = 100
"""Pieces of a head: 100 MB."""


@pytest.fixture
def guarded(server: Server) -> Iterator[str]:
    settings = Settings.model_validate({"redis_url": server.url, "api_key": "s3cret"})
    with served(settings) as url:
        yield url


def answer_to(url: str, start: bytes, piece: bytes, pieces: int, end: bytes) -> tuple[bytes, int]:
    """What came back, and how many bytes were sent until then."""
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        sent = 0
        try:
            for part in [start, *[piece] * pieces, end]:
                connection.sendall(part)
                sent += len(part)
        except ConnectionError:  # it has heard enough
            pass
        answer = b""
        try:
            while some := connection.recv(65536):
                answer += some
        except ConnectionError:
            pass
    return answer, sent


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"GET /runs HTTP/1.1\r\nHost: x\r\nX-Large: ", PIECE),
        (b"GET /runs HTTP/1.1\r\nHost: x\r\n", b"X-Small: y\r\n" * 87_382),
        (b"GET /", PIECE),
        (
            b"POST /images HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Tail: ",
            PIECE,
        ),
    ],
    ids=["one header", "many headers", "a target", "a trailer"],
)
def test_a_hundred_megabytes_are_not_read(guarded: str, start: bytes, piece: bytes) -> None:
    _, sent = answer_to(guarded, start, piece, LARGE, b"\r\n\r\n")
    assert sent < LARGE * 2**20 / 4, "what sockets buffer, and no more"


def test_a_head_of_another_kilobyte_is_refused_and_said_so(guarded: str) -> None:
    for start in (b"GET /runs HTTP/1.1\r\nHost: x\r\nX-Large: ", b"GET /"):
        answer, _ = answer_to(guarded, start, b"x" * (MAX_HEAD_BYTES + 1024), 1, b"")
        assert answer.startswith(b"HTTP/1.1 400 ")
    whole = b"GET /runs HTTP/1.1\r\nHost: x\r\nX-Large: " + b"x" * (MAX_HEAD_BYTES + 1024)
    assert answer_to(guarded, whole + b"\r\n\r\n", b"", 0, b"")[0].startswith(b"HTTP/1.1 400 ")


def test_a_head_within_the_bound_and_a_body_beyond_it_pass(guarded: str) -> None:
    head = (
        b"POST /images HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Authorization: Bearer s3cret\r\nX-Large: " + b"x" * (MAX_HEAD_BYTES // 2)
    )
    body = b"\r\nContent-Length: %d\r\n\r\n" % (4 * len(PIECE))
    answer, sent = answer_to(guarded, head + body, PIECE, 4, b"")
    assert b"are no PNG, JPEG or WEBP image" in answer
    assert sent > 4 * len(PIECE)
