"""Where configuration, state and credentials are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.config import locate


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file system with the service installed, and running."""
    for folder in ("etc/runbridge", "var/lib/runbridge", "run/credentials/runbridge.service"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "etc/runbridge/config.toml").touch()
    monkeypatch.setattr(locate, "SERVICE_CONFIG", tmp_path / "etc/runbridge/config.toml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_shell_that_uses_the_services_configuration_sees_its_state_and_credentials(root: Path) -> None:
    assert locate.service_env({"HOME": str(root)}, root) == {
        "STATE_DIRECTORY": str(root / "var/lib/runbridge"),
        "CREDENTIALS_DIRECTORY": str(root / "run/credentials/runbridge.service"),
    }


def test_the_service_itself_keeps_what_systemd_set(root: Path) -> None:
    assert locate.service_env({"HOME": str(root), "STATE_DIRECTORY": "/elsewhere"}, root) == {}


def test_a_nearer_configuration_has_its_own_state(root: Path) -> None:
    (root / "runbridge.toml").touch()
    assert locate.service_env({"HOME": str(root)}, root) == {}


def test_a_place_that_is_not_there_is_not_named(root: Path) -> None:
    (root / "run/credentials/runbridge.service").rmdir()
    assert locate.service_env({"HOME": str(root)}, root) == {"STATE_DIRECTORY": str(root / "var/lib/runbridge")}
