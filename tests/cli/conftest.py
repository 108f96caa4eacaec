"""Fixtures of the command line's tests: a way to run it, and a world to run it against."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bridge.cli import main
from tests.support.cli_world import TOKEN, World, world


@dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


RunCommand = Callable[..., Result]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> RunCommand:
    """Runs a command in an empty home and folder, without any RUNBRIDGE_ variable."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in (
        "XDG_CONFIG_HOME",
        "XDG_STATE_HOME",
        "STATE_DIRECTORY",
        "RUNBRIDGE_URL",
        "RUNBRIDGE_TOKEN",
        "RUNBRIDGE_CONFIG",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(home)

    def run(*arguments: object) -> Result:
        code = main([str(argument) for argument in arguments])
        out, err = capfdbinary.readouterr()
        return Result(code, out.decode(), err.decode())

    return run


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One daemon for all of these tests, with sandbox providers and a verifying receiver."""
    with world(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture
def bridge(running: World, cli: RunCommand, monkeypatch: pytest.MonkeyPatch) -> RunCommand:
    """`cli` with address and token of the running daemon in the environment."""
    monkeypatch.setenv("RUNBRIDGE_URL", running.url)
    monkeypatch.setenv("RUNBRIDGE_TOKEN", TOKEN)
    return cli
