"""The OpenAPI document: valid, complete, its examples run; schemathesis drives every operation from it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.generation import GenerationMode

from signaling.api.v1 import openapi
from signaling.api.v1.api import ROUTES
from signaling.calls.problems import CODES
from tests.signaling.api.world import World

DOCUMENT: dict[str, Any] = json.loads(openapi.document(ROUTES))
EXAMPLES_AN_OPERATION = 5
VALUES = {"type": "default", "id": "x", "user": "target", "name": "nothing"}
NOWHERE = "0190b5a4-0000-7000-8000-000000000000"


def test_the_document_has_every_operation_once() -> None:
    assert DOCUMENT["openapi"].startswith("3.1")
    operations = {
        (method.upper(), path): operation
        for path, item in DOCUMENT["paths"].items()
        for method, operation in item.items()
    }
    assert operations.keys() == {(route.method, route.path) for route in ROUTES}
    ids = [operation["operationId"] for operation in operations.values()]
    assert len(set(ids)) == len(ids)
    for route in ROUTES:
        operation = operations[route.method, route.path]
        assert operation["summary"]
        assert ("requestBody" in operation) == (route.body is not None)
        assert str(route.status) in operation["responses"]


def test_the_document_says_what_has_no_engine_yet() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for name in ("StartCapture", "GoLive"):
        assert "no_engine" in schemas[name]["description"]
    assert "nothing is written" in schemas["NewStorage"]["description"]
    for name in ("PutCall", "PostCall", "PatchCall", "ChangeType", "NewType"):
        said = schemas[name]["properties"]["settings"]["description"]
        assert all(group in said for group in ("recording", "broadcasting", "thumbnails", "no_engine")), name


def test_the_document_is_valid_and_refers_to_what_is_there() -> None:
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    schema.validate()
    text = json.dumps(DOCUMENT)
    for part in text.split('"$ref": "#/components/schemas/')[1:]:
        assert part.partition('"')[0] in DOCUMENT["components"]["schemas"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_document_is_served(world: World) -> None:
    for path in ("/openapi.json", "/v1/openapi.json"):
        reply = await world.http.get(path)
        assert (reply.status_code, reply.json()) == (200, DOCUMENT)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_every_example_is_a_good_request(world: World) -> None:
    await world.users("alice", "target")
    for number, route in enumerate(route for route in ROUTES if route.example is not None):
        await world.call(f"default/c{number}", by="alice", settings={"broadcasting": {"mode": "available"}})
        await world.as_("alice").join(f"default/c{number}")
        path = route.path.removeprefix("/v1")
        for name in openapi.PARAMETER.findall(path):
            path = path.replace(f"{{{name}}}", {**VALUES, "id": f"c{number}"}.get(name, NOWHERE))
        client = world.as_("alice") if "/calls/" in path else world.server
        reply = await client.request(route.method, path, route.example)
        placeholder = route.path in ("/v1/push-providers", "/v1/webhooks/{webhook}/redeliver")
        assert placeholder or reply.status_code not in (400, 422), (route.method, route.path, reply.text)


class Application:
    """The calls system on an event loop of its own, asked from ordinary code."""

    def __init__(self, url: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.world = self.run(World.open(url))
        self.run(self.world.users("alice", "target"))
        self.calls = 0

    def fresh_call(self) -> str:
        """Return the id of a new call with somebody in it: the request before may have deleted the last one."""
        self.calls += 1
        call_id = f"c{self.calls}"
        self.run(self.world.call(f"default/{call_id}", by="alice", members=["target"]))
        self.run(self.world.as_("target").join(f"default/{call_id}"))
        return call_id

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    def request(self, **request: Any) -> httpx2.Response:
        response: httpx2.Response = self.run(self.world.http.request(**request))
        return response

    def close(self) -> None:
        self.run(self.world.close())
        self.loop.close()


@pytest.fixture(scope="module")
def application(sqlite_template: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    file = tmp_path_factory.mktemp("openapi") / "calls.db"
    file.write_bytes(sqlite_template.read_bytes())
    made = Application(f"sqlite:///{file}")
    yield made
    made.close()


schema = schemathesis.openapi.from_dict(DOCUMENT)
schema.config.update(base_url="http://calls.test")
schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])


@schema.parametrize()
@settings(
    max_examples=EXAMPLES_AN_OPERATION, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
def test_no_request_makes_the_server_fail(case: schemathesis.Case[Any], application: Application) -> None:
    """Whatever is sent, to a call that is there and to any path: a documented reply, or a whole problem document."""
    given = case.path_parameters
    there = {**VALUES, "id": application.fresh_call()} if "id" in given else VALUES
    for parameters in ({**given, **{name: there[name] for name in given if name in there}}, given):
        case.path_parameters = parameters
        _check(case, _sent(case, application))


def _sent(case: schemathesis.Case[Any], application: Application) -> httpx2.Response:
    arguments = case.as_transport_kwargs(base_url="http://calls.test")
    names = ("method", "url", "params", "json", "content")
    sent = {name: arguments[name] for name in names if arguments.get(name) is not None}
    if arguments.get("data") is not None:
        sent["content"] = arguments["data"]
    return application.request(**sent, headers=application.world.server.headers)


def _check(case: schemathesis.Case[Any], response: httpx2.Response) -> None:
    if response.status_code < 300:
        documented = case.operation.definition.raw["responses"]
        # Make-or-get answers 200 or 201; a join, 200 or 202.
        assert str(response.status_code) in documented or response.status_code in (200, 201, 202)
        if response.status_code != 204:
            assert response.headers["content-type"] == "application/json"
            assert isinstance(response.json(), dict)
        return
    assert response.headers["content-type"] == "application/problem+json", response.text
    problem = response.json()
    assert response.status_code < 500 or problem["code"] == "no_media_node", response.text
    assert CODES[problem["code"]] == (response.status_code, problem["title"])
    assert {"type", "title", "status", "code", "detail", "request_id"} <= problem.keys()
    if response.status_code == 422:
        assert problem["errors"]
        for fault in problem["errors"]:
            assert fault.keys() == {"pointer", "code", "detail"}
            assert fault["pointer"] == "" or fault["pointer"].startswith("/")
