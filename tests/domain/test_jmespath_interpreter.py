"""The private interfaces of jmespath that we use have not changed since they were read."""

from __future__ import annotations

import hashlib
import inspect

import pytest
from jmespath import functions, lexer, parser, visitor


@pytest.mark.parametrize(
    ("source", "digest"),
    [
        (visitor.TreeInterpreter, "b345d40e5c5c67c0"),
        (visitor.Options, "4912fb5133daf7e8"),
        (functions.Functions, "8e9e6dacf94e928f"),
        (lexer.Lexer, "7617250f5ab1e404"),
        (parser.Parser, "b63ccef37930ad4e"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_source_that_the_interpreter_leans_on_has_not_changed(source: type, digest: str) -> None:
    """If it has: read it, check that every way to grow a value is still counted, then write the new digest here."""
    assert hashlib.sha256(inspect.getsource(source).encode()).hexdigest()[:16] == digest
