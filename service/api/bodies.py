"""JSON bodies: bounded in size, strict in content, parsed off the event loop when large."""

from collections.abc import Callable, Coroutine
from typing import Any, cast

from anyio import to_thread
from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import refuse
from service.problems import Refusal
from service.schemas import MAX_METADATA_CHARS

MAX_VALUES = 4096
"""Fields of objects and items of lists in a body, but for integers in lists: token ids."""

LARGE_BODY_BYTES = 1 << 20
"""Bytes above which parsing leaves the event loop."""


class StrictJsonRequest(Request):
    """A request whose JSON is parsed by pydantic's parser.

    Python's own accepts what cannot be stored or sent on (lone surrogates, NaN), and has no bound
    on depth but the interpreter's.
    """

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            body = await self.body()
            try:
                max_chars = self.app.state.settings.max_text_chars
                if len(body) > LARGE_BODY_BYTES:
                    self._json = await to_thread.run_sync(_parse, body, max_chars)
                else:
                    self._json = _parse(body, max_chars)
            except ValueError as error:
                raise Refusal(400, "invalid_json", f"The body is not JSON: {error}.") from None
        return self._json


def _parse(body: bytes, max_text_chars: int) -> Any:
    """Raises: ValueError; Refusal, before the time goes into it, for more values than a request can
    have."""
    # Commas stand between values, and in texts.
    if body.count(b",") > MAX_VALUES + MAX_METADATA_CHARS + max_text_chars:
        raise _too_many_values()
    parsed = from_json(body, allow_inf_nan=False)
    found = 0
    containers: list[Any] = [parsed]
    while containers:
        one: Any = containers.pop()
        if isinstance(one, dict):
            values = list(cast(dict[str, Any], one).values())
            found += len(values)
        elif isinstance(one, list):
            values = cast(list[Any], one)
            found += sum(type(value) is not int for value in values)
        else:
            continue
        if found > MAX_VALUES:
            raise _too_many_values()
        containers += [value for value in values if isinstance(value, dict | list)]
    return parsed


def _too_many_values() -> Refusal:
    return Refusal(
        422,
        "too_many_values",
        f"The body has more than {MAX_VALUES} fields and list items (token ids count apart).",
        loc=("body",),
    )


class StrictJsonRoute(APIRoute):
    """For routers that take JSON: `APIRouter(route_class=StrictJsonRoute)`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(StrictJsonRequest(request.scope, request.receive))

        return handle


class BodyLimitMiddleware:
    """Refuses bodies above a size, whether their length is announced or they come in chunks.

    What comes beyond the limit is read and thrown away, up to `DRAIN_LIMIT_FACTOR` times the limit:
    a client that is cut off while it still sends would not see the answer.
    """

    DRAIN_LIMIT_FACTOR = 4

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self._limit:
                await self._drain(receive)
                await refuse(scope["path"], self._too_large().problem)(scope, receive, send)
                return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._limit:
                    if message.get("more_body"):
                        await self._drain(receive)
                    raise self._too_large()
            return message

        await self._app(scope, limited, send)

    async def _drain(self, receive: Receive) -> None:
        thrown_away = 0
        while thrown_away < self._limit * self.DRAIN_LIMIT_FACTOR:
            message = await receive()
            thrown_away += len(message.get("body", b""))
            if not message.get("more_body"):
                return

    def _too_large(self) -> Refusal:
        return Refusal(
            413,
            "body_too_large",
            f"The body is larger than {self._limit} bytes (PREFSTREAM_MAX_BODY_BYTES). Store "
            "images one by one with POST /images and name them by their hash.",
        )
