"""The remedies of `remedies.toml` for common mistakes in a definition, each as the end of an error text."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path


@cache
def _remedies() -> dict[str, dict[str, str]]:
    return tomllib.loads((Path(__file__).parent / "remedies.toml").read_text(encoding="utf-8"))


def remedy_for_key(name: str, *tables: str) -> str:
    """The remedy for an unknown key in the first of the tables that has one; empty if none has."""
    found = (_remedies()[table][name] for table in tables if name in _remedies().get(table, ()))
    return next((f"; {remedy}" for remedy in found), "")


def remedy_for_text(kind: str, text: str) -> str:
    """The remedy for a text that is not a valid `expression` or `toml`; empty if none is known."""
    tried = ((re.search(form, text), remedy) for form, remedy in _remedies()[kind].items())
    return next((f"; {remedy.format(*found.groups())}" for found, remedy in tried if found), "")
