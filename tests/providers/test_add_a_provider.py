"""The how-to page: its examples are definitions without a mistake, and together they show every key."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from pathlib import Path

import pytest

from bridge.definitions.check import faults_in
from bridge.definitions.files import Definitions
from bridge.definitions.schema import SCHEMA
from bridge.providers.definition_answers import Answers
from bridge.providers.fixtures import compare, read_fixture

PAGE = (Path(__file__).parents[2] / "docs/add-a-provider.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
EXAMPLES = [tomllib.loads(text) for language, text in BLOCKS if language == "toml"]
WHOLE, *PARTS = EXAMPLES


@pytest.mark.parametrize("part", PARTS, ids="-".join)
def test_each_example_can_be_added_to_a_definition(part):
    tables = {**WHOLE, **part}
    assert list(faults_in(tables)) == []


def test_the_whole_example_is_found_and_reads_the_fixture_of_the_page(tmp_path):
    folder = tmp_path / "acme"
    folder.mkdir()
    (folder / "definition.toml").write_text(next(text for language, text in BLOCKS if language == "toml"))
    (folder / "one.json").write_text(next(text for language, text in BLOCKS if language == "json"))
    found = Definitions(tmp_path)
    assert found.mistakes == []
    # 9 s is asked for by a header that every provider's answers are searched for, without [pace]
    expected = json.loads((folder / "one.json").read_text())["expect"]
    compared = compare(Answers(found.get("acme")), read_fixture(folder / "one.json"))
    assert compared.status == expected["status"]
    assert [one for one in compared.differences if not one.startswith("pause")] == []


def test_every_key_has_an_example():
    shown = {(name,) for example in EXAMPLES for name in example}
    for example in EXAMPLES:
        for name, value in example.items():
            for item in value if isinstance(value, list) else [value]:
                shown |= {(name, key) for key in item} if isinstance(item, dict) else set()
    keys = SCHEMA["properties"]
    known = {(name,) for name in keys} - {("base",), ("replaces",)}
    known |= {
        (name, key)
        for name, schema in keys.items()
        for key in schema.get("items", schema).get("properties", ())
        if name != "vars"  # whose keys are the author's
    }
    methods = {"get", "post", "put", "patch", "delete", "query", "body"}  # of a request; shown where they are usual
    assert {path for path in known - shown if path[-1] not in methods} == set()
    assert all(f"`{name}`" in PAGE for name in ("base", "replaces"))


def places(value, at=()):
    """Every key of an example, at any depth."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in inner:
        yield (*at, name)
        yield from places(each, (*at, name))


@pytest.mark.parametrize("part", EXAMPLES, ids="-".join)
def test_whatever_is_wrong_in_an_example_is_reported_and_never_an_exception(part):
    for path in list(places(part)):
        for wrong in (None, object(), -1.5, "}{", [], {}, [{}], {"": {}}):
            tables = copy.deepcopy({**WHOLE, **part})
            inner = tables
            for name in path[:-1]:
                inner = inner[name]
            if wrong is None:
                del inner[path[-1]]
            else:
                inner[path[-1]] = wrong
            found = faults_in(tables)
            assert found or not isinstance(wrong, object) or type(wrong) is not object or "body" in path
            assert all(isinstance(at, tuple) and said for at, said in found)
