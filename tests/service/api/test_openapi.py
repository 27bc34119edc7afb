"""What /openapi.json says, from which /docs is made."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from service import schemas
from service.api import create_app
from service.settings import Settings
from tests.servers import Server
from tests.service.http import served

SPEC: dict[str, Any] = create_app(Settings.model_validate({"redis_url": "redis://x"})).openapi()
OPERATIONS: dict[str, dict[str, Any]] = {
    operation["operationId"]: operation
    for operations in SPEC["paths"].values()
    for operation in operations.values()
}
TEXT = {"text/event-stream", "text/plain", "image/*"}


def contents(operation: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of what the operation answers when it succeeds: media type, and schema with example."""
    for status, response in operation["responses"].items():
        if status in ("200", "201"):
            yield from response.get("content", {}).items()


def validate(schema: dict[str, Any], example: object) -> None:
    """Against the model that the schema names."""
    if schema.get("type") == "array":
        for item in example:  # pyright: ignore
            validate(schema["items"], item)
    elif "$ref" in schema:
        model = getattr(schemas, schema["$ref"].rpartition("/")[2])
        read = TypeAdapter(model).validate_python(example)
        assert set(example) <= set(model.model_fields), "strictly"  # pyright: ignore
        assert read


async def test_openapi_names_every_route(http: httpx.AsyncClient) -> None:
    spec = (await http.get("/openapi.json")).json()
    assert spec == SPEC
    assert {"/sample", "/bdhs", "/jobs/{job_id}", "/runs/{run}/pairs"} <= set(spec["paths"])
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
    assert (await http.get("/docs")).status_code == 200


def test_every_field_is_described() -> None:
    undescribed = [
        f"{name}.{field}"
        for name, schema in SPEC["components"]["schemas"].items()
        for field, described in schema.get("properties", {}).items()
        if not described.get("description")
    ]
    assert undescribed == []
    assert len(SPEC["components"]["schemas"]) > 30


def test_every_model_is_described() -> None:
    undescribed = [
        name
        for name, schema in SPEC["components"]["schemas"].items()
        if not schema.get("description") and name != "JsonValue"  # pydantic's
    ]
    assert undescribed == []


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_parameter_is_described(name: str) -> None:
    assert [p["name"] for p in OPERATIONS[name].get("parameters", []) if not p["description"]] == []


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_call_has_an_example(name: str) -> None:
    operation = OPERATIONS[name]
    if body := operation.get("requestBody"):
        for media_type, content in body["content"].items():
            if media_type != "image/*":
                validate(content["schema"], content["example"])
    for media_type, content in contents(operation):
        if media_type != "image/*":
            example = content["example"]
            if media_type in TEXT:
                assert isinstance(example, str)
            else:
                validate(content["schema"], example)


def test_operation_ids_are_readable() -> None:
    assert {"sample", "bdhs", "get_run", "lease", "delete_group"} <= OPERATIONS.keys()
    assert all(name.isidentifier() and "__" not in name for name in OPERATIONS)
    assert len(OPERATIONS) == sum(map(len, SPEC["paths"].values()))


def test_problems_have_their_media_type() -> None:
    seen = 0
    for operation in OPERATIONS.values():
        for status, response in operation["responses"].items():
            if status in ("4XX", "5XX"):
                assert list(response["content"]) == ["application/problem+json"]
                seen += 1
    assert seen > 40


async def test_the_key_is_part_of_it(server: Server) -> None:
    assert SPEC["components"]["securitySchemes"]["api_key"]["scheme"] == "bearer"
    assert OPERATIONS["bdhs"]["security"] == [{}, {"api_key": []}], "none is set"
    assert "security" not in OPERATIONS["live"]
    keyed = Settings.model_validate({"redis_url": server.url, "api_key": "s3cret"})
    headers = {"Authorization": "Bearer s3cret"}
    with served(keyed) as url:
        async with httpx.AsyncClient(base_url=url, headers=headers) as http:
            spec = (await http.get("/openapi.json")).json()
    assert spec["paths"]["/bdhs"]["post"]["security"] == [{"api_key": []}]
