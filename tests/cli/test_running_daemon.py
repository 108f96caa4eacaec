"""The commands against a real daemon: runs, endpoints, events, deliveries, connections, listen, tail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.domain.signing.hmac_v1 import new_secret
from tests.support.cli_world import TOKEN, World, free_port
from tests.support.stub_daemon import Said, stub_daemon

RUN = [sys.executable, "-c", "import sys; from bridge.cli import main; sys.exit(main())"]
ENDLESS = {"duration_s": None}


def _until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.02)


def _added(bridge, running: World, **scenario: object) -> str:
    return str(bridge("runs", "add", "dify-prod", running.add_run(**scenario), "--json").json["id"])


# -- runs


def test_a_run_that_succeeds_is_waited_for_with_0(bridge, running):
    result = bridge("runs", "add", "dify-prod", running.add_run(duration_s=0.5), "--wait")
    assert result.code == 0
    assert "is watched" in result.out
    assert "succeeded" in result.out


@pytest.mark.parametrize("outcome", ["failed", "cancelled"])
def test_a_run_that_does_not_end_well_is_waited_for_with_1(bridge, running, outcome):
    run_id = _added(bridge, running, duration_s=0.2, outcome=outcome, error="the reason")
    result = bridge("runs", "wait", run_id, "--json")
    assert result.code == 1
    assert result.json["status"] == outcome
    assert result.json["error"]["message"] == "the reason"


def test_a_partial_run_counts_as_done(bridge, running):
    assert bridge("runs", "wait", _added(bridge, running, duration_s=0.1, outcome="partial")).code == 0


def test_waiting_for_several_runs_fails_if_one_failed(bridge, running):
    good, bad = (_added(bridge, running, duration_s=0.1, outcome=outcome) for outcome in ("succeeded", "failed"))
    result = bridge("runs", "wait", bad, good)
    assert result.code == 1
    assert [line.split()[1] for line in result.out.splitlines()] == ["failed", "succeeded"]


def test_waiting_gives_up_at_its_timeout_with_1(bridge, running):
    result = bridge("runs", "wait", _added(bridge, running, **ENDLESS), "--timeout", "100ms")
    assert result.code == 1
    assert "is still" in result.out


def test_what_is_registered_comes_back_as_json(bridge, running):
    result = bridge(
        "runs", "add", "dify-prod", running.add_run(**ENDLESS), "--workflow", "w1", "--meta", "order=a=b", "--meta", "x=1",
        "--tag", "t1", "--tag", "t2", "--deadline", "2h", "--json",
    )  # fmt: skip
    run = result.json
    assert (run["workflow_id"], run["metadata"], run["tags"]) == ("w1", {"order": "a=b", "x": "1"}, ["t1", "t2"])
    assert bridge("runs", "list", "--tag", "t2", "--json").json["data"][0]["id"] == run["id"]


def test_registering_twice_says_so_and_changes_nothing(bridge, running):
    provider_run_id = running.add_run(**ENDLESS)
    first = bridge("runs", "add", "dify-prod", provider_run_id)
    again = bridge("runs", "add", "dify-prod", provider_run_id)
    assert "is watched" in first.out
    assert "was watched already" in again.out
    assert first.out.split()[0] == again.out.split()[0]


def test_the_secret_of_a_one_run_webhook_is_shown_once(bridge, running):
    provider_run_id = running.add_run(**ENDLESS)
    first = bridge("runs", "add", "dify-prod", provider_run_id, "--webhook", running.receiver)
    again = bridge("runs", "add", "dify-prod", provider_run_id)
    assert "whsec_" in first.out
    assert "whsec_" not in again.out


def test_waiting_for_json_does_not_swallow_the_secret(bridge, running):
    provider_run_id = running.add_run(duration_s=0.1)
    result = bridge("runs", "add", "dify-prod", provider_run_id, "--webhook", running.receiver, "--wait", "--json")
    assert result.json["status"] == "succeeded"
    assert "whsec_" in result.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("nope", "x"), "connection"),
        (("dify-prod", "no-uuid"), "provider_run_id"),
        (("dify-prod", "x", "--deadline", "soon"), "deadline"),
    ],
)
def test_what_the_daemon_finds_wrong_is_wrong_use_and_named(bridge, arguments, named):
    result = bridge("runs", "add", *arguments)
    assert result.code == 2
    assert f"{named}: " in result.err


def test_a_run_that_is_not_there_gives_1(bridge):
    for words in (("show",), ("wait",), ("watch",), ("poll",), ("cancel",), ("rm",)):
        result = bridge("runs", *words, "run_nowhere")
        assert result.code == 1
        assert "run_nowhere" in result.err


def test_show_tells_the_whole_story(bridge, running):
    steps = [{"after_s": 0, "status": "running"}, {"after_s": 0.5, "status": "waiting"}]
    run_id = _added(bridge, running, duration_s=1.5, steps=steps, outcome="failed", error="broken")
    assert bridge("runs", "wait", run_id).code == 1
    _until(lambda: "delivered" in bridge("runs", "show", run_id).out, "the delivery")
    told = bridge("runs", "show", run_id).out
    for words in (
        "dify-prod (dify)",
        "broken",
        "timeline",
        "waiting",
        "run.finished",
        "my-app",
        "none, it has settled",
    ):
        assert words in told
    assert bridge("runs", "show", run_id, "--json").json["transitions"]


def test_a_run_under_way_says_when_it_is_looked_at_next(bridge, running):
    run_id = _added(bridge, running, **ENDLESS)
    _until(lambda: "next poll" in bridge("runs", "show", run_id).out, "a planned poll")
    assert bridge("runs", "show", run_id, "--json").json["next_poll_at"] is not None


def test_watching_named_runs_ends_when_all_have_settled(bridge, running):
    good, bad = (_added(bridge, running, duration_s=0.3, outcome=outcome) for outcome in ("succeeded", "failed"))
    result = bridge("runs", "watch", good, bad)
    assert result.code == 1
    ends = {line.split()[0]: line.split()[2] for line in result.out.splitlines()}
    assert ends == {good: "succeeded", bad: "failed"}


def test_a_run_that_cannot_be_cancelled_there_gives_1_and_the_reason(bridge, running):
    result = bridge("runs", "cancel", _added(bridge, running, **ENDLESS))
    assert result.code == 1
    assert "dify" in result.err


def test_a_run_is_looked_at_at_once_on_request_and_then_forgotten(bridge, running):
    run_id = _added(bridge, running, **ENDLESS)
    assert bridge("runs", "poll", run_id).code == 0
    assert bridge("runs", "rm", run_id).code == 0
    assert bridge("runs", "show", run_id).code == 1


def test_a_long_list_says_how_to_go_on(bridge, running):
    for _ in range(3):
        _added(bridge, running, duration_s=0.1)
    page = bridge("runs", "list", "--limit", "2")
    assert "--cursor" in page.err
    cursor = page.err.split()[-1]
    assert bridge("runs", "list", "--limit", "1", "--cursor", cursor).code == 0


# -- endpoints, events, deliveries


def test_an_endpoint_from_birth_to_removal(bridge, running):
    added = bridge(
        "endpoints", "add", running.receiver, "--events", "run.finished,run.waiting", "--header", "X-Team: a:b",
        "--filter", "data.run.status == 'failed'", "--ordered", "--description", "for tests",
    )  # fmt: skip
    endpoint_id = added.out.split()[0]
    assert added.out.count("whsec_") == 1
    shown = bridge("endpoints", "show", endpoint_id)
    assert "whsec_" not in shown.out
    assert "run.finished, run.waiting" in shown.out
    assert endpoint_id in bridge("endpoints", "list").out
    assert "disabled" in bridge("endpoints", "disable", endpoint_id).out
    assert bridge("endpoints", "ping", endpoint_id).code == 1
    enabled = bridge("endpoints", "enable", endpoint_id).out
    assert "enabled" in enabled
    assert "missed" not in enabled
    rotated = bridge("endpoints", "rotate-secret", endpoint_id, "--overlap", "1h")
    assert "whsec_" in rotated.out
    assert rotated.out.split()[-1] not in added.out
    assert bridge("endpoints", "rm", endpoint_id).code == 0
    assert bridge("endpoints", "show", endpoint_id).code == 1


def test_an_endpoint_may_bring_its_own_secret(bridge, running, tmp_path):
    secret = new_secret()
    (tmp_path / "secret").write_text(secret + "\n")
    added = bridge("endpoints", "add", running.receiver, "--secret-file", tmp_path / "secret", "--json").json
    assert added["secret"] == secret
    assert bridge("endpoints", "rm", added["id"]).code == 0


def test_enabling_an_endpoint_can_send_what_it_missed_meanwhile(bridge, running):
    endpoint_id = bridge("endpoints", "add", running.receiver, "--events", "run.finished", "--json").json["id"]
    assert bridge("endpoints", "disable", endpoint_id).code == 0
    assert bridge("runs", "wait", _added(bridge, running, duration_s=0.1)).code == 0
    assert bridge("endpoints", "replay", endpoint_id, "--status", "missed", "--dry-run", "--json").json["count"] >= 1
    result = bridge("endpoints", "enable", endpoint_id, "--replay-missed", "--wait", "--json")
    assert result.code == 0, result.err
    assert (result.json["state"], result.json["status"]) == ("done", "missed")
    assert result.json["replayed"] == result.json["count"] >= 1
    assert bridge("endpoints", "rm", endpoint_id).code == 0


def test_enabling_an_endpoint_tells_what_it_missed_and_how_to_send_it(bridge, running):
    """What was recorded while it was off is not sent by itself."""
    endpoint_id = bridge("endpoints", "add", running.receiver, "--events", "run.finished", "--json").json["id"]
    assert bridge("endpoints", "disable", endpoint_id).code == 0
    assert bridge("runs", "wait", _added(bridge, running, duration_s=0.1)).code == 0
    missed = bridge("endpoints", "replay", endpoint_id, "--status", "missed", "--dry-run", "--json").json["count"]
    said = bridge("endpoints", "enable", endpoint_id).out
    assert f"it missed {missed} event" in said
    command = said.split("`")[1].split()
    assert bridge(*command[1:], "--wait", "--json").json["replayed"] == missed
    assert bridge("endpoints", "rm", endpoint_id).code == 0


def test_an_unknown_event_type_is_wrong_use_before_anything_is_asked(bridge):
    result = bridge("endpoints", "add", "https://example.org", "--events", "run.finshed")
    assert result.code == 2
    assert "did you mean run.finished?" in result.err


def test_an_endpoint_from_the_file_is_not_changed_over_the_api(bridge):
    result = bridge("endpoints", "rm", "my-app")
    assert result.code == 1
    assert "configuration file" in result.err


def test_a_ping_says_what_the_receiver_answered(bridge):
    result = bridge("endpoints", "ping", "my-app")
    assert result.code == 0
    assert result.out.startswith("✓ evt_")
    told = bridge("endpoints", "ping", "my-app", "--no-wait", "--json").json
    assert set(told) == {"event_id"}


def test_a_ping_that_is_not_taken_gives_1_and_the_reason(bridge):
    with stub_daemon(lambda seen: Said(500)) as receiver:
        endpoint_id = bridge("endpoints", "add", f"{receiver.url}/", "--json").json["id"]
        result = bridge("endpoints", "ping", endpoint_id)
    assert bridge("endpoints", "rm", endpoint_id).code == 0
    assert result.code == 1
    assert "500" in result.out


def test_a_delivery_shows_every_attempt_with_the_answer_cleaned(bridge, running):
    """A receiver's answer must not be able to write into the operator's terminal."""
    with stub_daemon(lambda seen: Said(500, b"no \x1b[31mred\x07\nsecond line")) as receiver:
        endpoint_id = bridge("endpoints", "add", f"{receiver.url}/", "--json").json["id"]
        bridge("endpoints", "ping", endpoint_id)
        listed = bridge("deliveries", "list", "--endpoint", endpoint_id, "--json").json["data"]
        shown = bridge("deliveries", "show", listed[0]["id"])
        retried = bridge("deliveries", "retry", listed[0]["id"])
    assert bridge("endpoints", "rm", endpoint_id).code == 0
    assert "#1" in shown.out
    assert "server_error" in shown.out
    assert "│ no [31mred" in shown.out
    assert "│ second line" in shown.out
    assert "\x1b" not in shown.out
    assert "is tried again" in retried.out


def test_an_event_is_shown_as_the_bytes_that_are_sent(bridge, running):
    event_id = bridge("endpoints", "ping", "my-app", "--json").json["event_id"]
    request = urllib.request.Request(
        f"{running.url}/v1/events/{event_id}", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        stored = answer.read()
    assert bridge("events", "show", event_id, "--json").out == stored.decode() + "\n"
    assert json.loads(bridge("events", "show", event_id).out)["type"] == "bridge.ping"


def test_events_are_listed_by_type_and_sent_again(bridge):
    event_id = bridge("endpoints", "ping", "my-app", "--json").json["event_id"]
    listed = bridge("events", "list", "--events", "bridge.ping", "--limit", "200")
    assert event_id in listed.out
    replayed = bridge("events", "replay", event_id, "--endpoint", "my-app")
    assert replayed.code == 0
    assert "goes out again 1 time" in replayed.out
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


def test_deliveries_and_connections_come_as_tables_and_as_json(bridge):
    bridge("endpoints", "ping", "my-app")
    assert "bridge.ping" in bridge("deliveries", "list", "--state", "delivered").out
    assert "dify-wrong-key" in bridge("connections", "list").out
    assert {c["name"] for c in bridge("connections", "list", "--json").json["data"]} == {"dify-prod", "dify-wrong-key"}


def test_checking_a_connection_tells_a_good_key_from_a_wrong_one(bridge):
    assert bridge("connections", "check", "dify-prod").code == 0
    wrong = bridge("connections", "check", "dify-wrong-key")
    assert wrong.code == 1
    assert wrong.out.startswith("✗")
    assert "not-the-key" not in wrong.out
    assert bridge("connections", "check").code == 1
    assert bridge("providers", "check", "dify").code == 1
    assert "no connection at retab" in bridge("providers", "check", "retab").out


def test_json_may_stand_before_the_command_as_well(bridge):
    assert "data" in bridge("--json", "runs", "list").json


def test_a_wrong_token_gives_1_and_says_which_one_was_used(bridge, running):
    result = bridge("runs", "list", "--token", "wrong")
    assert result.code == 1
    assert "--token" in result.err
    assert "wrong " not in result.err


def test_address_and_token_are_found_in_the_configuration_file(cli, running):
    assert cli("runs", "list", "--config", running.config).code == 0


# -- streams


@pytest.fixture
def following(running, tmp_path):
    """Starts a following command and answers a way to read its lines; ends it with Ctrl-C and looks at its code."""
    children = []

    def start(*arguments: str) -> Path:
        lines = tmp_path / f"lines-{len(children)}"
        env = {**os.environ, "RUNBRIDGE_URL": running.url, "RUNBRIDGE_TOKEN": TOKEN, "PYTHONUNBUFFERED": "1"}
        with lines.open("w") as out:
            children.append(subprocess.Popen([*RUN, *arguments], stdout=out, stderr=subprocess.PIPE, env=env))
        return lines

    yield start
    for child in children:
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=20)
        assert child.returncode == 130, err


def _first_ping(bridge, event_types: str = "bridge.ping") -> str:
    """An event to begin after, so that it does not matter when the follower connects."""
    return str(bridge("endpoints", "ping", "my-app", "--json").json["event_id"])


def test_tail_prints_a_line_for_each_event_behind_the_given_one(bridge, following):
    first = _first_ping(bridge)
    plain = following("events", "tail", "--after", first, "--events", "bridge.ping")
    as_json = following("events", "tail", "--after", first, "--events", "bridge.ping", "--json")
    second = bridge("endpoints", "ping", "my-app", "--json").json["event_id"]
    _until(lambda: second in plain.read_text() and second in as_json.read_text(), "the second event")
    assert first not in plain.read_text()
    assert json.loads(as_json.read_text().splitlines()[0])["id"] == second


def test_listen_forwards_the_same_bytes_signed(bridge, running, following, tmp_path):
    secret = new_secret()
    (tmp_path / "secret").write_text(secret)
    first = _first_ping(bridge)
    with stub_daemon(lambda seen: Said(204, b"")) as receiver:
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
        _until(lambda: receiver.seen, "the forwarded event")
        _until(lambda: "✓ 204" in lines.read_text(), "the mark")
    seen = receiver.seen[0]
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
    _until(lambda: len(lines.read_text().splitlines()) >= 2, "two lines")
    told = json.loads(lines.read_text().splitlines()[0])
    assert (told["status"], told["why"]) == (None, "connection refused")


# -- doctor, trigger, db beside a running daemon


def test_doctor_finds_the_wrong_key(cli, running):
    result = cli("doctor", "--config", running.config)
    assert result.code == 1
    lines = result.out.splitlines()
    wrong = [line for line in lines if line.startswith("✗")]
    assert len(wrong) == 1
    assert "dify-wrong-key" in wrong[0]
    assert any("daemon" in line and line.startswith("✓") for line in lines)
    assert any("clock against 127.0.0.1" in line and line.startswith("✓") for line in lines)


def test_doctor_offline_asks_no_provider(cli, running):
    result = cli("doctor", "--config", running.config, "--offline", "--json")
    assert result.code == 0
    assert {finding["result"] for finding in result.json} <= {"ok", "remark"}
    assert not [f for f in result.json if f["check"].startswith(("clock", "connection "))]


def test_trigger_pings_an_endpoint_through_the_daemon(bridge):
    assert bridge("trigger", "bridge.ping", "--endpoint", "my-app").code == 0


def test_trigger_sends_any_type_to_an_endpoints_url_with_its_secret(bridge, running, tmp_path):
    (tmp_path / "secret").write_text(running.secret)
    result = bridge("trigger", "run.finished", "--endpoint", "my-app", "--secret-file", tmp_path / "secret")
    assert result.code == 0, result.out
    assert bridge("trigger", "run.finished", "--endpoint", "my-app").code == 2


def test_a_backup_beside_the_running_daemon_is_sound_and_holds_the_runs(bridge, running, tmp_path):
    run_id = _added(bridge, running, duration_s=0.1)
    result = bridge("db", "backup", tmp_path / "copy.db", "--config", running.config)
    assert result.code == 0, result.err
    assert bridge("db", "check", "--config", running.config).code == 0
    assert bridge("db", "check", "--database", f"sqlite:///{tmp_path / 'copy.db'}").code == 0
    assert run_id.encode() in (tmp_path / "copy.db").read_bytes()
    assert bridge("runs", "show", run_id).code == 0


def test_upgrading_under_a_running_daemon_is_refused(cli, running):
    result = cli("db", "upgrade", "--config", running.config)
    assert result.code == 1
    assert "another runbridge" in result.err


def test_a_second_daemon_on_the_same_database_is_refused_with_one_sentence(cli, running):
    done = subprocess.run(
        [*RUN, "serve", "--config", str(running.config), "--listen", f"127.0.0.1:{free_port()}"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "another runbridge" in done.stderr
    assert "Traceback" not in done.stderr
