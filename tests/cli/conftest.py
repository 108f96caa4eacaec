"""Fixtures of the command line's tests: a way to run it, and an installation to run it against."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bridge.cli import main
from tests.support.installation import TOKEN, Installation, installation
from tests.support.ports import free_port
from tests.support.waiting import wait_until


@dataclass(frozen=True)
class CommandResult:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


RunCommand = Callable[..., CommandResult]


def until(condition: Callable[[], object], what: str) -> None:
    """Wait until `condition` holds."""
    wait_until(condition, what=what)


def add_run(bridge: RunCommand, running: Installation, **scenario: object) -> str:
    """Register a run with this scenario at the sandbox; its id."""
    return str(bridge("runs", "add", "dify-prod", running.add_run(**scenario), "--json").json["id"])


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

    def run(*arguments: object) -> CommandResult:
        code = main([str(argument) for argument in arguments])
        out, err = capfdbinary.readouterr()
        return CommandResult(code, out.decode(), err.decode())

    return run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration file; its addresses are free, its database does not exist yet."""
    path = tmp_path / "bridge.toml"
    path.write_text(
        f'[server]\nlisten = "127.0.0.1:{free_port()}"\napi_token = "the-token"\n'
        f'[database]\nurl = "sqlite:///{tmp_path / "data" / "runbridge.db"}"\n'
        f'[connections.d]\nprovider = "dify"\nbase_url = "http://127.0.0.1:{free_port()}/v1"\napi_key = "the-key"\n'
        '[delivery]\nallow = ["10.0.0.0/8:8080"]\n'
    )
    path.chmod(0o600)
    return path


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One daemon for all of these tests, with sandbox providers and a verifying receiver."""
    with installation(tmp_path_factory.mktemp("installation")) as running:
        yield running


@pytest.fixture
def bridge(running: Installation, cli: RunCommand, monkeypatch: pytest.MonkeyPatch) -> RunCommand:
    """`cli` with address and token of the running daemon in the environment."""
    monkeypatch.setenv("RUNBRIDGE_URL", running.url)
    monkeypatch.setenv("RUNBRIDGE_TOKEN", TOKEN)
    return cli
