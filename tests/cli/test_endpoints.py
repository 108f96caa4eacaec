"""The `endpoints` and `deliveries` commands against a running daemon."""

from __future__ import annotations

import json

import pytest

from bridge.domain.signing.hmac_v1 import new_secret
from tests.cli.conftest import RunCommand, add_run, until
from tests.support.installation import Installation
from tests.support.ports import free_port
from tests.support.stub_server import StubResponse, stub_server


def test_an_endpoint_is_added_shown_switched_rotated_and_removed(bridge, running):
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
    assert "signs beside the new one until" in bridge("endpoints", "show", endpoint_id).out
    assert bridge("endpoints", "rm", endpoint_id).code == 0
    assert bridge("endpoints", "show", endpoint_id).code == 1


def test_a_filter_is_tried_on_the_newest_events(bridge, running):
    run_id = add_run(bridge, running, duration_s=0.1)
    assert bridge("runs", "wait", run_id).code == 0
    tried = ("endpoints", "test-filter", f"data.run.id == '{run_id}'", "--events", "run.finished")
    result = bridge(*tried)
    assert result.code == 0, result.err
    assert "1 of " in result.out.splitlines()[-1]
    (line,) = [line for line in result.out.splitlines() if run_id in line]
    assert line.startswith("✓")
    assert bridge(*tried, "--limit", "1", "--json").json["matched"] == 1
    failing = bridge("endpoints", "test-filter", "length(data.run.status) > `0`", "--events", "bridge.ping")
    assert failing.code in (0, 1)  # 1 where a ping, which has no run, is among the newest
    refused = bridge("endpoints", "test-filter", 'data.run.status == "failed"')
    assert (refused.code, "filter: " in refused.err) == (2, True)


def test_an_update_changes_what_is_given_and_nothing_else(bridge, running):
    endpoint_id = bridge(
        "endpoints", "add", running.receiver, "--events", "run.finished", "--header", "X-Team: a", "--description", "old",
        "--filter", "data.run.status == 'failed'", "--ordered", "--rate-limit", "5", "--json",
    ).json["id"]  # fmt: skip
    changed = bridge(
        "endpoints", "update", endpoint_id, "--to", f"{running.receiver}?new=1", "--events", "run.waiting",
        "--unset", "filter", "--no-ordered", "--json",
    ).json  # fmt: skip
    assert (changed["events"], changed["filter"], changed["ordered"]) == (["run.waiting"], None, False)
    assert changed["url"].endswith("?new=1")
    assert (changed["description"], changed["rate_limit"], set(changed["headers"])) == ("old", 5.0, {"X-Team"})
    shown = bridge(
        "endpoints", "update", endpoint_id, "--unset", "headers", "--unset", "rate-limit", "--format", "cloudevents"
    )
    assert "cloudevents" in shown.out
    assert "X-Team" not in shown.out
    assert "rate limit" not in shown.out
    assert "give at least one setting" in bridge("endpoints", "update", endpoint_id).err
    assert bridge("endpoints", "update", "my-app", "--description", "x").code == 1
    assert bridge("endpoints", "rm", endpoint_id).code == 0


def test_an_endpoint_may_bring_its_own_secret(bridge, running, tmp_path):
    secret = new_secret()
    (tmp_path / "secret").write_text(secret + "\n")
    added = bridge("endpoints", "add", running.receiver, "--secret-file", tmp_path / "secret", "--json").json
    assert added["secret"] == secret
    assert bridge("endpoints", "rm", added["id"]).code == 0


def test_enabling_an_endpoint_can_send_what_it_missed(bridge, running):
    endpoint_id = bridge("endpoints", "add", running.receiver, "--events", "run.finished", "--json").json["id"]
    assert bridge("endpoints", "disable", endpoint_id).code == 0
    assert bridge("runs", "wait", add_run(bridge, running, duration_s=0.1)).code == 0
    assert bridge("endpoints", "replay", endpoint_id, "--status", "missed", "--dry-run", "--json").json["count"] >= 1
    result = bridge("endpoints", "enable", endpoint_id, "--replay-missed", "--wait", "--json")
    assert result.code == 0, result.err
    assert (result.json["state"], result.json["status"]) == ("done", "missed")
    assert result.json["replayed"] == result.json["count"] >= 1
    assert bridge("endpoints", "rm", endpoint_id).code == 0


def test_enabling_an_endpoint_prints_what_it_missed_and_how_to_send_it(bridge, running):
    """Events recorded while it was disabled are not sent without a replay."""
    endpoint_id = bridge("endpoints", "add", running.receiver, "--events", "run.finished", "--json").json["id"]
    assert bridge("endpoints", "disable", endpoint_id).code == 0
    assert bridge("runs", "wait", add_run(bridge, running, duration_s=0.1)).code == 0
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


@pytest.mark.parametrize("command", ["endpoints show", "endpoints rm", "deliveries retry", "events show"])
def test_an_empty_id_is_wrong_use(bridge, command):
    """A shell variable that is not set: it was an address that the daemon does not have."""
    result = bridge(*command.split(), "")
    assert result.code == 2
    assert "id: is empty; give one that `list` shows" in result.err


def test_an_endpoint_from_the_file_is_not_changed_over_the_api(bridge):
    result = bridge("endpoints", "rm", "my-app")
    assert result.code == 1
    assert "configuration file" in result.err


def test_a_ping_says_what_the_receiver_answered(bridge):
    result = bridge("endpoints", "ping", "my-app")
    assert result.code == 0
    assert result.out.startswith("✓ evt_")
    shown = bridge("endpoints", "ping", "my-app", "--no-wait", "--json").json
    assert set(shown) == {"event_id"}


def test_a_ping_that_is_not_taken_gives_1_and_the_reason(bridge):
    with stub_server(lambda request: StubResponse(500)) as receiver:
        endpoint_id = bridge("endpoints", "add", f"{receiver.url}/", "--json").json["id"]
        result = bridge("endpoints", "ping", endpoint_id)
    assert bridge("endpoints", "rm", endpoint_id).code == 0
    assert result.code == 1
    assert "500" in result.out


def test_a_delivery_shows_every_attempt_with_the_answer_cleaned(bridge, running):
    """A receiver's answer must not be able to write into the operator's terminal."""
    with stub_server(lambda request: StubResponse(500, b"no \x1b[31mred\x07\nsecond line")) as receiver:
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


def test_deliveries_and_connections_come_as_tables_and_as_json(bridge):
    bridge("endpoints", "ping", "my-app")
    assert "bridge.ping" in bridge("deliveries", "list", "--state", "delivered").out
    assert "dify-wrong-key" in bridge("connections", "list").out
    assert {c["name"] for c in bridge("connections", "list", "--json").json["data"]} == {"dify-prod", "dify-wrong-key"}


def test_wishes_are_given_when_it_is_added_and_shown(bridge: RunCommand, running: Installation) -> None:
    added = bridge(
        "endpoints", "add", running.receiver, "--events", "run.finished",
        "--payload", "thin", "--format", "cloudevents", "--rate-limit", "2.5", "--v1a", "--json",
    )  # fmt: skip
    assert added.code == 0, added.err
    made = json.loads(added.out)
    assert (made["payload"], made["format"], made["rate_limit"]) == ("thin", "cloudevents", 2.5)
    (key,) = made["public_keys"]
    shown = bridge("endpoints", "show", made["id"]).out
    for part in ("thin", "cloudevents", "2.5 a second", "v1, v1a", key):
        assert part in shown
    rotated = bridge("endpoints", "rotate-secret", made["id"], "--v1a")
    assert "whpk_" in rotated.out
    assert "whsec_" not in rotated.out
    assert bridge("endpoints", "rm", made["id"]).code == 0


def test_the_public_key_is_printed_when_it_is_added(bridge: RunCommand, running: Installation) -> None:
    added = bridge("endpoints", "add", running.receiver, "--v1a")
    assert "whpk_" in added.out
    assert bridge("endpoints", "rm", added.out.split()[0]).code == 0


def test_every_attempt_is_shown_with_phases_peer_and_what_was_answered(
    bridge: RunCommand, running: Installation
) -> None:
    added = json.loads(bridge("endpoints", "add", running.receiver, "--json").out)
    assert bridge("endpoints", "ping", added["id"]).code in (0, 1)
    (row,) = json.loads(bridge("deliveries", "list", "--endpoint", added["id"], "--json").out)["data"]
    shown = bridge("deliveries", "show", row["id"]).out
    for part in ("#1", "peer", "127.0.0.1:", "phases", "first_byte", "outcome"):
        assert part in shown, shown
    assert bridge("endpoints", "rm", added["id"]).code == 0


def test_a_wish_that_cannot_be_met_is_wrong_use(bridge: RunCommand, running: Installation) -> None:
    assert bridge("endpoints", "add", running.receiver, "--rate-limit", "0").code == 2
    assert bridge("endpoints", "add", running.receiver, "--format", "xml").code == 2


def test_a_list_of_deliveries_says_when_for_which_run_and_what_to_do_about_those_that_failed(bridge, running):
    run_id = add_run(bridge, running, duration_s=0.1)
    bridge("runs", "wait", run_id)
    listed = bridge("deliveries", "list", "--run", run_id)
    assert listed.out.splitlines()[0].split()[:5] == ["DELIVERY", "AT", "EVENT", "TYPE", "RUN"]
    assert run_id in listed.out
    endpoint_id = bridge("endpoints", "add", f"http://127.0.0.1:{free_port()}/", "--json").json["id"]
    bridge("endpoints", "ping", endpoint_id)
    until(
        lambda: "is the receiver running" in bridge("deliveries", "list", "--endpoint", endpoint_id).err, "the advice"
    )
    assert bridge("deliveries", "list", "--endpoint", endpoint_id, "--json").err == ""
    bridge("endpoints", "rm", endpoint_id)
