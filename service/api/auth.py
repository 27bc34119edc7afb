"""The API key, where one is set."""

import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.problems import refuse
from service.problems import problem

PUBLIC_PATHS = frozenset({"/health/live", "/health/ready"})
"""Orchestrators probe these without a key."""


class ApiKeyMiddleware:
    """Lets through only who sends `Authorization: Bearer <key>`."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._expected = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "http"
            and scope["path"] not in PUBLIC_PATHS
            and not self._is_authorized(scope)
        ):
            refusal = refuse(
                scope["path"],
                problem(
                    401,
                    "unauthorized",
                    "This service has an API key. Send it as `Authorization: Bearer <key>`.",
                ),
                {"WWW-Authenticate": "Bearer"},
            )
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_authorized(self, scope: Scope) -> bool:
        sent = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(sent) == 1 and hmac.compare_digest(sent[0], self._expected)
