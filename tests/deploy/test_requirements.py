"""The pinned requirements: hashed, without a registry, and the same where files share a package."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
SERVERS = [f"servers/{path.stem}" for path in sorted((ROOT / "requirements/servers").glob("*.txt"))]


@pytest.mark.parametrize("name", ["build", "runtime", "otel", "dev", *SERVERS])
def test_requirements_are_hashed_and_name_no_registry(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^-", text, re.MULTILINE), "an option instead of a requirement"
    for entry in re.split(r"\n(?=\S)", text.strip()):
        assert "==" in entry, entry
        assert "--hash=sha256:" in entry, entry


def test_what_is_tested_is_what_is_shipped() -> None:
    """The versions in dev.txt and build.txt are those of runtime.txt where they share a package."""
    runtime, dev, build, otel = (pins(name) for name in ("runtime", "dev", "build", "otel"))
    assert {name: dev.get(name) for name in otel} == otel
    assert {name: otel.get(name) for name in runtime} == runtime
    assert {name: dev.get(name) for name in runtime} == runtime
    assert {name: dev.get(name) for name in build} == build


@pytest.mark.parametrize("name", ["runtime", "dev"])
def test_what_is_needed_with_extras_is_pinned_with_them(name: str) -> None:
    """Otherwise pip takes the newest version for `google-auth[requests]`, finds no hash for it and installs nothing."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    pinned = {line[1]: set(line[2].split(",")) for line in re.finditer(r"^([a-z0-9.-]+)\[(.+)\]==", text, re.MULTILINE)}
    needs = [Requirement(each) for package in pins(name) for each in requires_of(package)]
    wanted = {(need.name, extra) for need in needs if is_always(need) for extra in need.extras}
    assert {(package, extra) for package, extra in wanted if extra not in pinned.get(package, ())} == set()
    assert "asyncio" in pinned["sqlalchemy"]  # our own wish


def is_always(need: Requirement) -> bool:
    """True if it is needed here without an extra of the package that requires it."""
    return need.marker is None or need.marker.evaluate({"extra": ""})


def requires_of(package: str) -> list[str]:
    try:
        return metadata.requires(package) or []
    except metadata.PackageNotFoundError:  # pinned for another platform
        return []


def test_every_declared_dependency_is_pinned() -> None:
    declared = {
        re.split(r"[\[<>=! ]", line)[0]
        for line in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    }
    assert declared - set(pins("runtime")) == set(), "run `make lock`"


def pins(name: str) -> dict[str, list[str]]:
    """Package → the lines that pin it: more than one where Python versions need different ones."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([a-z0-9.-]+)(?:\[[a-z0-9,-]+\])?==([^ ;\\]+)", line):
            found.setdefault(match[1], []).append(match[2])
    return found
