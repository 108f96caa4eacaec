"""The `events` and `listen` commands against a running daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from bridge.domain.signing.hmac_v1 import new_secret
from tests.cli.conftest import until
from tests.support.installation import RUNBRIDGE, TOKEN
from tests.support.ports import free_port
from tests.support.stub_server import StubResponse, stub_server


def test_an_event_is_shown_as_the_bytes_that_are_sent(bridge, running):
    event_id = bridge("endpoints", "ping", "my-app", "--json").json["event_id"]
    request = urllib.request.Request(
        f"{running.url}/v1/events/{event_id}", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        stored = answer.read()
    assert bridge("events", "show", event_id, "--json").out == stored.decode() + "\n"
    assert json.loads(bridge("events", "show", event_id).out)["type"] == "bridge.ping"


def test_events_are_listed_newest_first_in_pages(bridge):
    first, second, third = (bridge("endpoints", "ping", "my-app", "--json").json["event_id"] for _ in range(3))
    pings = ("events", "list", "--events", "bridge.ping")
    page = bridge(*pings, "--limit", "2")
    assert [line.split()[0] for line in page.out.splitlines()[1:]] == [third, second]
    cursor = page.err.split()[-1]
    assert cursor == second
    assert bridge(*pings, "--limit", "1", "--cursor", cursor, "--json").json["data"][0]["id"] == first


def test_events_after_one_are_listed_oldest_first(bridge):
    first, second, third = (bridge("endpoints", "ping", "my-app", "--json").json["event_id"] for _ in range(3))
    arguments = ("events", "list", "--after", first, "--events", "bridge.ping")
    assert [line.split()[0] for line in bridge(*arguments).out.splitlines()[1:]] == [second, third]
    assert f"--after {second}" in bridge(*arguments, "--limit", "1").err
    assert bridge(*arguments).err == ""
    assert bridge(*arguments, "--cursor", second).code == 2


def test_events_are_listed_by_type_and_sent_again(bridge):
    event_id = bridge("endpoints", "ping", "my-app", "--json").json["event_id"]
    listed = bridge("events", "list", "--events", "bridge.ping", "--limit", "200")
    assert event_id in listed.out
    replayed = bridge("events", "replay", event_id, "--endpoint", "my-app")
    assert replayed.code == 0
    assert "is sent again 1 time" in replayed.out
    dry = bridge("endpoints", "replay", "my-app", "--since", "1h", "--types", "bridge.ping", "--dry-run", "--json")
    assert dry.json["count"] >= 1
    done = bridge("endpoints", "replay", "my-app", "--since", "1h", "--types", "bridge.ping", "--wait", "--json")
    assert done.code == 0
    assert (done.json["state"], done.json["replayed"]) == ("done", done.json["count"])
    assert done.json["id"] in bridge("replays", "list").out
    assert "my-app" in bridge("replays", "show", done.json["id"]).out
    assert bridge("replays", "wait", done.json["id"]).code == 0
    assert "ended already" in bridge("replays", "cancel", done.json["id"]).err
    assert "--status missed" in bridge("endpoints", "replay", "my-app").err
    missed = bridge("endpoints", "replay", "my-app", "--status", "missed", "--json")
    assert missed.json["status"] == "missed"


@pytest.fixture
def following(running, tmp_path):
    """Starts a following command and answers a way to read its lines; ends it with Ctrl-C and looks at its code."""
    children = []

    def start(*arguments: str) -> Path:
        lines = tmp_path / f"lines-{len(children)}"
        env = {**os.environ, "RUNBRIDGE_URL": running.url, "RUNBRIDGE_TOKEN": TOKEN, "PYTHONUNBUFFERED": "1"}
        with lines.open("w") as out:
            children.append(subprocess.Popen([*RUNBRIDGE, *arguments], stdout=out, stderr=subprocess.PIPE, env=env))
        return lines

    yield start
    for child in children:
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
        assert child.returncode == 130, err


def _first_ping(bridge, event_types: str = "bridge.ping") -> str:
    """An event to begin after, so that it does not matter when the follower connects."""
    return str(bridge("endpoints", "ping", "my-app", "--json").json["event_id"])


def test_tail_prints_a_line_for_each_event_behind_the_given_one(bridge, following):
    first = _first_ping(bridge)
    plain = following("events", "tail", "--after", first, "--events", "bridge.ping")
    as_json = following("events", "tail", "--after", first, "--events", "bridge.ping", "--json")
    second = bridge("endpoints", "ping", "my-app", "--json").json["event_id"]
    until(lambda: second in plain.read_text() and second in as_json.read_text(), "the second event")
    assert first not in plain.read_text()
    assert json.loads(as_json.read_text().splitlines()[0])["id"] == second


def test_listen_forwards_the_same_bytes_signed(bridge, running, following, tmp_path):
    secret = new_secret()
    (tmp_path / "secret").write_text(secret)
    first = _first_ping(bridge)
    with stub_server(lambda request: StubResponse(204, b"")) as receiver:
        url = f"{receiver.url}/hooks?a=b"
        lines = following(
            "listen",
            "--forward-to",
            url,
            "--after",
            first,
            "--events",
            "bridge.ping",
            "--secret-file",
            str(tmp_path / "secret"),
        )
        second = bridge("endpoints", "ping", "my-app", "--json").json["event_id"]
        until(lambda: receiver.requests, "the forwarded event")
        until(lambda: "✓ 204" in lines.read_text(), "the mark")
    seen = receiver.requests[0]
    assert (seen.method, seen.target, seen.headers["webhook-id"]) == ("POST", "/hooks?a=b", second)
    assert bridge("events", "show", second, "--json").out == seen.body.decode() + "\n"
    (tmp_path / "headers").write_text(json.dumps(seen.headers))
    (tmp_path / "body").write_bytes(seen.body)
    checked = bridge("verify", "--secret", secret, "--headers", tmp_path / "headers", "--body", tmp_path / "body")
    assert checked.code == 0, checked.out


def test_listen_shows_what_failed_and_goes_on(bridge, following):
    first = _first_ping(bridge)
    lines = following("listen", "--forward-to", f"http://127.0.0.1:{free_port()}/", "--after", first, "--json")
    for _ in range(2):
        bridge("endpoints", "ping", "my-app")
    until(lambda: len(lines.read_text().splitlines()) >= 2, "two lines")
    shown = json.loads(lines.read_text().splitlines()[0])
    assert (shown["status"], shown["why"]) == (None, "connection refused")
