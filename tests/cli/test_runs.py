"""The `runs` commands against a running daemon."""

from __future__ import annotations

import pytest

from tests.cli.conftest import add_run, until

ENDLESS = {"duration_s": None}


def test_a_run_that_succeeds_is_waited_for_with_0(bridge, running):
    result = bridge("runs", "add", "dify-prod", running.add_run(duration_s=0.5), "--wait")
    assert result.code == 0
    assert "is watched" in result.out
    assert "succeeded" in result.out


@pytest.mark.parametrize("outcome", ["failed", "cancelled"])
def test_a_run_that_does_not_end_well_is_waited_for_with_1(bridge, running, outcome):
    run_id = add_run(bridge, running, duration_s=0.2, outcome=outcome, error="the reason")
    result = bridge("runs", "wait", run_id, "--json")
    assert result.code == 1
    assert result.json["status"] == outcome
    assert result.json["error"]["message"] == "the reason"


def test_a_partial_run_counts_as_done(bridge, running):
    assert bridge("runs", "wait", add_run(bridge, running, duration_s=0.1, outcome="partial")).code == 0


def test_waiting_for_several_runs_fails_if_one_failed(bridge, running):
    good, bad = (add_run(bridge, running, duration_s=0.1, outcome=outcome) for outcome in ("succeeded", "failed"))
    result = bridge("runs", "wait", bad, good)
    assert result.code == 1
    assert [line.split()[1] for line in result.out.splitlines()] == ["failed", "succeeded"]


@pytest.mark.parametrize("timeout", ["100ms", "1"])
def test_waiting_gives_up_at_its_timeout_with_1(bridge, running, timeout):
    result = bridge("runs", "wait", add_run(bridge, running, **ENDLESS), "--timeout", timeout)
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


def test_a_settled_run_is_watched_again_on_request(bridge, running):
    theirs = running.add_run(duration_s=0.1)
    first = bridge("runs", "add", "dify-prod", theirs, "--wait", "--json").json
    assert bridge("runs", "add", "dify-prod", theirs, "--json").json["id"] == first["id"]
    again = bridge("runs", "add", "dify-prod", theirs, "--rewatch", "--wait", "--json")
    assert (again.code, again.json["status"]) == (0, "succeeded")
    assert again.json["id"] != first["id"]
    assert bridge("runs", "show", theirs, "--json").json["id"] == again.json["id"]


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


def test_a_run_is_found_by_the_providers_id(bridge, running):
    theirs = running.add_run(**ENDLESS)
    run_id = bridge("runs", "add", "dify-prod", theirs, "--json").json["id"]
    for given in (theirs, theirs.upper(), f"dify-prod:{theirs}", run_id):
        assert bridge("runs", "show", given, "--json").json["id"] == run_id
    assert bridge("runs", "show", theirs).out.startswith(run_id)
    assert bridge("runs", "wait", theirs, "--timeout", "10ms").code == 1
    assert bridge("runs", "poll", theirs).code == 0
    assert bridge("runs", "add", "dify-wrong-key", theirs).code == 0
    several = bridge("runs", "show", theirs)
    assert (several.code, f"dify-prod:{theirs}" in several.err) == (2, True)
    assert bridge("runs", "rm", f"dify-wrong-key:{theirs}", f"dify-prod:{theirs}").code == 0
    assert "there is no run" in bridge("runs", "show", theirs).err


def test_runs_are_listed_by_state_status_id_metadata_and_time(bridge, running):
    theirs = running.add_run(**ENDLESS)
    run_id = bridge("runs", "add", "dify-prod", theirs, "--meta", "order=4711", "--json").json["id"]

    def listed(*filters: str) -> bool:
        return run_id in bridge("runs", "list", *filters).out

    for filters in (
        ("--state", "open"), ("--id", run_id[:20]), ("--id", theirs[:8]), ("--meta", "order=4711"), ("--since", "1h"),
        ("--status", "queued", "--status", "running"), ("--status", "queued,running"), ("--state", "open", "--meta", "order=4711", "--id", "run_"),
    ):  # fmt: skip
        assert listed(*filters), filters
    for filters in (
        ("--state", "settled"),
        ("--id", "run_x"),
        ("--meta", "order=4712"),
        ("--until", "1h"),
        ("--status", "failed"),
    ):
        assert not listed(*filters), filters
    assert bridge("runs", "rm", run_id).code == 0


def test_show_prints_timeline_events_and_deliveries(bridge, running):
    steps = [{"after_s": 0, "status": "waiting"}]
    there = running.add_run(duration_s=None, steps=steps)
    run_id = bridge("runs", "add", "dify-prod", there, "--json").json["id"]
    until(lambda: "waiting" in bridge("runs", "show", run_id).out, "the pause")
    running.add_run(run_id=there, duration_s=0, outcome="failed", error="broken")
    assert bridge("runs", "wait", run_id).code == 1
    until(lambda: "delivered" in bridge("runs", "show", run_id).out, "the delivery")
    shown = bridge("runs", "show", run_id).out
    for words in (
        "dify-prod (dify)",
        "broken",
        "timeline",
        "waiting",
        "run.finished",
        "my-app",
        "none, it has settled",
    ):
        assert words in shown
    theirs = bridge("runs", "show", run_id, "--json").json
    assert theirs["transitions"]
    by_alias = bridge("runs", "show", f"dify-prod:{theirs['provider_run_id']}").out
    assert by_alias.splitlines()[0] == shown.splitlines()[0]
    assert "delivered" in by_alias


def test_a_run_under_way_shows_its_next_poll(bridge, running):
    run_id = add_run(bridge, running, **ENDLESS)
    until(lambda: "next poll" in bridge("runs", "show", run_id).out, "a planned poll")
    assert bridge("runs", "show", run_id, "--json").json["next_poll_at"] is not None


@pytest.mark.slow
def test_a_run_and_its_connection_show_why_polls_fail(bridge, running):
    theirs = running.add_run(**ENDLESS)
    assert bridge("runs", "add", "dify-wrong-key", theirs).code == 0
    name = f"dify-wrong-key:{theirs}"
    until(lambda: "last error" in bridge("runs", "show", name).out, "a failed poll")
    (line,) = [line for line in bridge("runs", "show", name).out.splitlines() if line.startswith("last error")]
    assert "401" in line
    assert "last error" in bridge("connections", "show", "dify-wrong-key").out
    assert bridge("runs", "rm", name).code == 0


def test_watching_named_runs_ends_when_all_have_settled(bridge, running):
    good, bad = (add_run(bridge, running, duration_s=0.3, outcome=outcome) for outcome in ("succeeded", "failed"))
    result = bridge("runs", "watch", good, bad)
    assert result.code == 1
    ends = {line.split()[0]: line.split()[2] for line in result.out.splitlines()}
    assert ends == {good: "succeeded", bad: "failed"}


def test_a_run_that_cannot_be_cancelled_there_gives_1_and_the_reason(bridge, running):
    result = bridge("runs", "cancel", add_run(bridge, running, **ENDLESS))
    assert result.code == 1
    assert "dify" in result.err


def test_a_run_is_polled_on_request_and_removed(bridge, running):
    run_id = add_run(bridge, running, **ENDLESS)
    assert bridge("runs", "poll", run_id).code == 0
    assert bridge("runs", "rm", run_id).code == 0
    assert bridge("runs", "show", run_id).code == 1


def test_a_long_list_says_how_to_go_on(bridge, running):
    for _ in range(3):
        add_run(bridge, running, duration_s=0.1)
    page = bridge("runs", "list", "--limit", "2")
    assert "--cursor" in page.err
    cursor = page.err.split()[-1]
    assert bridge("runs", "list", "--limit", "1", "--cursor", cursor).code == 0


def test_a_run_is_started_with_inputs_and_shows_its_progress(bridge, running, tmp_path):
    inputs = tmp_path / "inputs.json"
    inputs.write_text('{"b": [1]}')
    result = bridge(
        "runs", "start", "dify-prod", "--workflow", "w", "--input", "a=text", "--input", f"@{inputs}", "--wait"
    )
    assert result.code == 0, result
    assert "succeeded" in result.out
    inputs.write_text("[]")
    assert bridge("runs", "start", "dify-prod", "--workflow", "w", "--input", f"@{inputs}").code == 2
    assert bridge("runs", "start", "dify-prod", "--workflow", "w", "--input", "a").code == 2
