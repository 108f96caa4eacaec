"""The JSON Schema of definitions: what editors complete and underline is what the loader takes."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from bridge.definitions.files import BUILT_IN
from bridge.definitions.schema import SCHEMA, SCHEMA_TEXT

BUILT_INS = sorted(BUILT_IN.glob("*/definition.toml"))
PAGE = (Path(__file__).parents[2] / "docs/add-a-provider.md").read_text(encoding="utf-8")
WHOLE, *PARTS = [tomllib.loads(text) for text in re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)]


def faults(tables: dict[str, Any]) -> list[str]:
    """What an editor would underline; it sees dates as text."""
    as_json = json.loads(json.dumps(tables, default=str))
    return [error.message for error in jsonschema_rs.Draft7Validator(SCHEMA).iter_errors(as_json)]


def test_the_schema_is_valid_and_short_and_printed_as_it_is():
    assert jsonschema_rs.meta.is_valid(SCHEMA)
    assert json.loads(SCHEMA_TEXT) == SCHEMA
    assert len(SCHEMA_TEXT.splitlines()) < 600


@pytest.mark.parametrize("path", BUILT_INS, ids=lambda path: path.parent.name)
def test_every_built_in_definition_fits(path):
    assert faults(tomllib.loads(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("part", PARTS, ids="-".join)
def test_every_example_of_the_how_to_page_fits(part):
    assert faults({**WHOLE, **part}) == []


@pytest.mark.parametrize(
    "part",
    [
        {"rnu": {}},
        {"run": {"gte": "/x/{id}"}},
        {"status": {"running": "RUN"}},
        {"status": {"runing": ["RUN"]}},
        {"list": {"get": "/x"}},
        {"run": {"get": "/x/{id}", "interval": 5}},
    ],
    ids=str,
)
def test_a_mistake_is_underlined(part):
    assert faults({**WHOLE, **part})


def test_a_table_that_is_missing_is_underlined_unless_a_base_gives_it():
    rest = {name: value for name, value in WHOLE.items() if name != "run"}
    assert faults(rest)
    assert faults({**rest, "base": "azure-lro"}) == []
