"""The OpenAPI description, from which `/docs` is made: what FastAPI derives from routes and models,
with an example for every call, the API key, and the media type of problems."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from service.api.auth import PUBLIC_PATHS
from service.api.examples import REQUESTS, RESPONSES

PROBLEM = "application/problem+json"
METHODS = ("get", "put", "post", "patch", "delete")


def operation_id(route: APIRoute) -> str:
    """The route's function, such as `get_run`: generated clients name their methods by it."""
    return route.name


def describe(app: FastAPI, *, needs_key: bool) -> None:
    """Puts the description in the place of FastAPI's own. `needs_key`: an API key is set."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _description(app, needs_key)
        return app.openapi_schema

    app.openapi = openapi


def _description(app: FastAPI, needs_key: bool) -> dict[str, Any]:
    spec = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
    )
    key = {
        "type": "http",
        "scheme": "bearer",
        "description": "The service's API key (PREFSTREAM_API_KEY), where one is set.",
    }
    spec["components"]["securitySchemes"] = {"api_key": key}
    for path, operations in spec["paths"].items():
        for method in operations.keys() & METHODS:
            operation = operations[method]
            if path not in PUBLIC_PATHS:
                operation["security"] = [{"api_key": []}] if needs_key else [{}, {"api_key": []}]
            _add_examples(operation)
            for status, response in operation["responses"].items():
                if status in ("4XX", "5XX"):
                    response["content"] = {PROBLEM: response["content"]["application/json"]}
    return spec


def _add_examples(operation: dict[str, Any]) -> None:
    name = operation["operationId"]
    if name in REQUESTS:
        for content in operation["requestBody"]["content"].values():
            content["example"] = REQUESTS[name]
    if name in RESPONSES:
        status, example = RESPONSES[name]
        response = operation["responses"][str(status)]
        if example is not None:
            for content in response["content"].values():
                content["example"] = example
