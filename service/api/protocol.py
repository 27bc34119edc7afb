"""HTTP as uvicorn parses it, with a bound on all that is not body.

httptools keeps a request's head until it is whole, however long; nobody has been asked for a key by
then.
"""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
"""Of a request's target and headers in all, trailers included."""

TOO_LARGE = f"The request's target and headers are longer than {MAX_HEAD_BYTES} bytes."


class BoundedHeadProtocol(HttpToolsProtocol):
    """Answers 400 to a longer head, and closes the connection."""

    _head_bytes = 0
    """Of the headers that the parser has read."""
    _unread_bytes = 0
    """Received since the parser last came to the end of a head, some body or a message."""

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unread_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unread_bytes = 0
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        self._unread_bytes += len(data)
        super().data_received(data)
        if self._unread_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.logger.warning(TOO_LARGE)
            self.send_400_response(TOO_LARGE)

    def _count(self, size: int) -> None:
        """Raises: ValueError, which uvicorn answers as it does whatever is not HTTP."""
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError(TOO_LARGE)
