"""The OpenAPI document: valid 3.1, whole, and the same as what is served."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema_rs
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from bridge.api.examples import EXAMPLES
from bridge.api.field_descriptions import DESCRIPTIONS
from bridge.api.routes import ROUTES
from bridge.cli.trigger import sample_event
from bridge.domain.endpoint import Endpoint, EndpointSource, payload_for
from bridge.domain.event import EventType
from tests.support.api_bridge import DOCUMENT, Api

SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
OPERATIONS = [o for path in DOCUMENT["paths"].values() for o in path.values()]


def errors_in(value: object, schema: dict[str, Any]) -> list[str]:
    """The errors of a value by this schema, which may refer to components."""
    whole = {**schema, "components": {"schemas": SCHEMAS}}
    return [str(error) for error in jsonschema_rs.validator_for(whole, validate_formats=True).iter_errors(value)]


def test_the_document_is_valid_openapi_3_1() -> None:
    assert list(OpenAPIV31SpecValidator(json.loads(json.dumps(DOCUMENT))).iter_errors()) == []


def test_every_field_and_every_parameter_is_described() -> None:
    silent = [
        f"{name}.{field}"
        for name, schema in SCHEMAS.items()
        for field, part in schema.get("properties", {}).items()
        if not part.get("description")
    ]
    silent += [
        f"{o['operationId']}: {p['name']}" for o in OPERATIONS for p in o["parameters"] if not p.get("description")
    ]
    assert silent == [], "describe them in bridge/api/field_descriptions.py"


def test_no_description_is_left_over() -> None:
    queries = {route.request_model.__name__: route.request_model for route in ROUTES if not route.has_body}
    for group, texts in DESCRIPTIONS.items():
        names = group.split()
        assert set(names) <= {*SCHEMAS, *queries}
        if names:
            fields = {field for name in names for field in SCHEMAS.get(name, {}).get("properties", {})}
            fields |= {field for name in names if name in queries for field in queries[name].model_fields}
            assert set(texts) <= fields, group


def test_every_body_has_an_example() -> None:
    bodies = {
        content["schema"]["$ref"].rpartition("/")[2]
        for o in OPERATIONS
        for part in (o.get("requestBody", {}), *o["responses"].values())
        for content in part.get("content", {}).values()
        if "schema" in content
    }
    assert {name for name in bodies if "examples" not in SCHEMAS[name]} == set(), "in the model, or in api/examples.py"
    assert set(EXAMPLES) <= bodies


@pytest.mark.parametrize("name", [name for name in SCHEMAS if "examples" in SCHEMAS[name]])
def test_an_example_fits_its_schema(name: str) -> None:
    (example,) = SCHEMAS[name]["examples"]
    assert errors_in(example, {"$ref": f"#/components/schemas/{name}"}) == []


def test_the_examples_and_defaults_of_fields_fit_their_schemas() -> None:
    for name, schema in SCHEMAS.items():
        for field, part in schema.get("properties", {}).items():
            for value in (*part.get("examples", []), *([part["default"]] if "default" in part else [])):
                assert errors_in(value, part) == [], f"{name}.{field}"


@pytest.mark.parametrize("event_type", EventType)
@pytest.mark.parametrize("payload_format", ["standard", "cloudevents"])
def test_a_webhook_is_as_it_is_described(event_type: EventType, payload_format: str) -> None:
    event = sample_event(event_type)
    endpoint = Endpoint(url="", id="ep_1", source=EndpointSource.API, format=payload_format)
    made = payload_for(endpoint, event)
    content = DOCUMENT["webhooks"][event_type]["post"]["requestBody"]["content"]
    body, content_type = (made.body, made.content_type) if made else (event.body, "application/json")
    assert errors_in(json.loads(body), content[content_type]["schema"]) == []


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


def test_a_change_has_no_defaults() -> None:
    """A generated client would send them, and so change what its caller left out."""
    assert not any("default" in part for part in SCHEMAS["EndpointPatch"]["properties"].values())
