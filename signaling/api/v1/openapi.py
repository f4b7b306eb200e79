"""The OpenAPI 3.1 document, from the route table and the request models. Not here: anything written twice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from pydantic.json_schema import models_json_schema

from signaling.api.v1.http import Route

PARAMETER = re.compile(r"\{(\w+)\}")
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "code", "detail", "request_id"],
    "properties": {
        **{name: {"type": "string"} for name in ("type", "title", "code", "detail", "request_id")},
        "status": {"type": "integer"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "code", "detail"],
                "properties": {name: {"type": "string"} for name in ("pointer", "code", "detail")},
            },
        },
    },
}


def document(routes: Sequence[Route]) -> bytes:
    """Return the document as JSON."""
    models = sorted({route.body for route in routes if route.body is not None}, key=lambda model: model.__name__)
    names, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    schemas = dict(definitions.get("$defs", {}))
    schemas["Problem"] = _PROBLEM
    if "MemberItem" in schemas:
        schemas["MemberItem"] = _member(schemas["MemberItem"])
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        reference = names[route.body, "validation"] if route.body is not None else None
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, reference)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Callyard calls API",
                "version": "1",
                "description": "Calls, members, ringing, roles and permissions, backstage.",
            },
            "security": [{"bearer": []}],
            "paths": paths,
            "components": {
                "schemas": schemas,
                "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
            },
        }
    )


def _member(schema: dict[str, Any]) -> dict[str, Any]:
    # A bare user id stands for a member with nothing else said.
    properties = {name: value for name, value in schema["properties"].items() if not name.startswith("\0")}
    return {"anyOf": [{"type": "string"}, {**schema, "properties": properties}]}


def _operation(route: Route, reference: Any) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "tags": [route.path.split("/")[2]],
        "parameters": [*_path_parameters(route), *_query_parameters(route)],
        "responses": {
            str(route.status): {"description": "Done."},
            "default": {
                "description": "A problem (RFC 9457).",
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        },
    }
    if route.status != 204:
        operation["responses"][str(route.status)]["content"] = {"application/json": {"schema": {"type": "object"}}}
    if route.auth == "public":
        operation["security"] = []
    if route.capability:
        operation["x-capability"] = route.capability.split("|")
    if reference is not None:
        content: dict[str, Any] = {"schema": reference}
        if route.example is not None:
            content["example"] = route.example
        operation["requestBody"] = {"required": False, "content": {"application/json": content}}
    return operation


def _operation_id(route: Route) -> str:
    words = [part.strip("{}").replace("-", "_") for part in route.path.split("/")[2:]]
    return "_".join([route.method.lower(), *words])


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in PARAMETER.findall(route.path)
    ]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "query", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in route.query.items()
    ]
