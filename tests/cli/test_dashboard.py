"""`runbridge dashboard`: a link that signs in once."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest

from tests.cli.conftest import RunCommand
from tests.support.installation import Installation


def sign_in(running: Installation, link: str) -> Any:
    request = urllib.request.Request(
        f"{running.url}/v1/session", json.dumps({"link": link}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def test_the_link_signs_in_and_its_secret_stands_behind_the_hash(bridge: RunCommand, running: Installation) -> None:
    result = bridge("dashboard", "--no-open")
    assert result.code == 0
    address, _, secret = result.out.strip().partition("/#sign-in=")
    assert address == running.url
    assert sign_in(running, secret)["scope"] == "admin"
    assert bridge("dashboard", "--json").json["url"].startswith(f"{running.url}/#sign-in=")


def test_a_unix_socket_has_no_page_and_the_command_says_what_to_do(
    bridge: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNBRIDGE_URL", "unix:/run/runbridge/api.sock")
    result = bridge("dashboard")
    assert result.code == 2
    assert "no browser reaches" in result.err
    assert "[server] listen" in result.err
