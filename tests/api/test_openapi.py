"""The OpenAPI document: valid 3.1, whole, and the same as what is served."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema_rs
import pytest
from schemathesis.specs.openapi import definitions

from bridge.api.routes import ROUTES
from tests.support.api_bridge import DOCUMENT, Api


def test_the_document_is_valid_openapi_3_1() -> None:
    assert not list(definitions.OPENAPI_31_VALIDATOR.iter_errors(json.loads(json.dumps(DOCUMENT))))


def test_every_schema_is_a_valid_json_schema() -> None:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        assert jsonschema_rs.meta.is_valid(schema), name


def test_every_reference_leads_somewhere() -> None:
    found = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT)))
    assert found <= set(DOCUMENT["components"]["schemas"])
    assert "#/$defs" not in json.dumps(DOCUMENT)


def test_every_route_is_described_once() -> None:
    operations = [o for path in DOCUMENT["paths"].values() for o in path.values()]
    assert len(operations) == len(ROUTES)
    assert len({o["operationId"] for o in operations}) == len(ROUTES)
    assert all(o["summary"] for o in operations)


def test_open_routes_say_so_and_every_post_but_a_sign_in_takes_an_idempotency_key() -> None:
    for route in ROUTES:
        operation = DOCUMENT["paths"][route.path][route.method.lower()]
        assert (operation.get("security") == []) is route.is_open
        names = [parameter["name"] for parameter in operation["parameters"]]
        assert ("Idempotency-Key" in names) is (route.method == "POST" and not route.has_secret)


@pytest.mark.parametrize(
    ("path", "name", "schema"),
    [
        ("/v1/runs", "limit", {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}),
        ("/v1/runs/{id}/wait", "timeout", {"type": "number", "minimum": 0, "maximum": 300, "default": 60}),
        ("/v1/runs", "tag", {"type": "string", "minLength": 1, "maxLength": 100}),
    ],
)
def test_query_parameters_carry_their_bounds(path: str, name: str, schema: dict[str, Any]) -> None:
    parameters = DOCUMENT["paths"][path]["get"]["parameters"]
    assert next(p["schema"] for p in parameters if p["name"] == name) == schema


async def test_the_document_is_served_as_it_is(sqlite_api: Api) -> None:
    reply = await sqlite_api.call("GET", "/openapi.json", token=None)
    assert reply.body == json.loads(json.dumps(DOCUMENT))
