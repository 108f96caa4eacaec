"""The JSON Schema of definitions: what editors complete and underline is what the loader takes."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from bridge.definitions.files import BUILT_IN
from bridge.definitions.schema import SCHEMA, SCHEMA_TEXT

ROOT = Path(__file__).parents[2]
LANGUAGE = (
    *ROOT.glob("bridge/definitions/*.py"),
    ROOT / "bridge/domain/definition.py",
    *(ROOT / f"bridge/providers/{name}.py" for name in ("defined", "definition_answers", "definition_reader")),
    *(ROOT / f"bridge/providers/{name}.py" for name in ("definition_requests", "definition_token")),
)
BUILT_INS = sorted(BUILT_IN.glob("*/definition.toml"))
PAGE = (ROOT / "docs/add-a-provider.md").read_text(encoding="utf-8")
WHOLE, *PARTS = [tomllib.loads(text) for text in re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)]


def faults(tables: dict[str, Any]) -> list[str]:
    """The mistakes that an editor would underline; it sees dates as text."""
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


def tombi(folder: Path) -> tuple[int, str]:
    """The code and the output of an editor's own check of every file in a folder; it makes no request."""
    (folder / "schema.json").write_text(SCHEMA_TEXT)
    command = [str(Path(sys.executable).parent / "tombi"), "lint", "--offline", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_an_editor_finds_nothing_in_the_built_in_definitions(tmp_path):
    for path in BUILT_INS:
        (tmp_path / f"{path.parent.name}.toml").write_text(
            f"#:schema ./schema.json\n{path.read_text(encoding='utf-8')}"
        )
    code, said = tombi(tmp_path)
    assert code == 0
    assert "Warning" not in said
    assert f"{len(BUILT_INS)} files linted" in said


@pytest.mark.slow
def test_an_editor_underlines_a_mistake(tmp_path):
    text = BUILT_INS[0].read_text(encoding="utf-8").replace("succeeded", "suceeded")
    (tmp_path / "one.toml").write_text(f"#:schema ./schema.json\n{text}")
    code, said = tombi(tmp_path)
    assert code == 1
    assert '"suceeded" is not allowed' in said


def lines_of_code(path: Path) -> int:
    """The lines of a file that are neither blank nor comment nor docstring."""
    text = path.read_text(encoding="utf-8")
    documented = {
        number
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = enumerate(text.splitlines(), 1)
    return sum(1 for number, line in lines if number not in documented and line.strip() and line.strip()[0] != "#")


def test_interpreter_loader_and_linter_stay_small():
    assert sum(map(lines_of_code, LANGUAGE)) <= 1800
