"""`runbridge connections show`: how an account stands, and what was learned of its workflows."""

from __future__ import annotations

import json

import pytest

from bridge.domain.connection import CadenceSettings
from bridge.domain.run import RunStatus
from bridge.polling.duration_learner import DurationLearner
from bridge.polling.planner import Planner
from tests.support.stub_server import StubResponse, stub_server

STATE = {
    "requests_per_second": 4.0, "limit_is_learned": False, "max_in_flight": 2, "in_flight": 1, "runs_in_hand": 3,
    "limit_reason": "learned; the provider refused (429) once; the next request goes in 1 s",
    "limits_shared_by_nodes": 1, "paused_for_s": 0.2, "shadow_price_s": 1.62, "over_capacity_by": 1.8, "learned": [],
}  # fmt: skip
CONNECTION = {
    "name": "hub", "provider": "instabase", "base_url": "https://hub.example.org", "health": "ok", "reason": None,
    "since": None, "limits": {"requests_per_second": 4.0, "max_in_flight": None},
    "cadence": {"price": "500ms", "target_delay": None}, "state": STATE,
}  # fmt: skip


@pytest.fixture
def show(cli):
    """Runs `connections show hub` against a daemon that shows this state and knows these workflows."""
    planner = Planner(CadenceSettings(), DurationLearner())
    for number in range(30):
        planner.learner.learn("invoices", RunStatus.RUNNING, 30.5, 31.5, now=number * 10.0)

    def run(*arguments, **state):
        body = {**CONNECTION, "state": {**STATE, "learned": planner.summary(), **state}}
        if "--workflow" in arguments:
            body["distribution"] = planner.distribution(arguments[1])
        with stub_server(lambda request: StubResponse(body=json.dumps(body).encode())) as daemon:
            return cli("connections", "show", "hub", *arguments, "--url", daemon.url)

    return run


def test_limits_say_whether_they_were_configured_or_learned(show):
    lines = show().out.splitlines()
    assert lines[0] == "hub ok"
    assert "requests      at most 4 a second, as configured" in lines
    assert "why           learned; the provider refused (429) once; the next request goes in 1 s" in lines
    assert "in flight     1, at most 2, learned" in lines


LAST_ERROR = {"at": "2026-01-15T10:30:00Z", "kind": "bad_payload", "message": "the answer is HTML", "count": 7}


def test_a_list_shows_each_limit_and_the_last_error_is_shown(cli):
    failing = {**CONNECTION, "health": "failing", "reason": "the answer is HTML", "last_error": LAST_ERROR}
    body = {"data": [failing], "next_cursor": None}
    with stub_server(lambda request: StubResponse(body=json.dumps(body).encode())) as daemon:
        listed = cli("connections", "list", "--url", daemon.url).out
    assert "4/s" in listed
    assert STATE["limit_reason"] in listed
    with stub_server(lambda request: StubResponse(body=json.dumps(failing).encode())) as daemon:
        shown = cli("connections", "show", "hub", "--url", daemon.url).out
    assert "hub failing the answer is HTML" in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("last error")]
    assert line.split(None, 2)[2].startswith("the answer is HTML  (bad_payload, ")
    assert line.endswith("7 times in a row)")


def test_health_is_unknown_before_the_first_answer(cli):
    unknown = {**CONNECTION, "health": "unknown"}
    with stub_server(lambda request: StubResponse(body=json.dumps(unknown).encode())) as daemon:
        shown = cli("connections", "show", "hub", "--url", daemon.url).out
    assert shown.startswith("hub unknown (no poll has been answered yet)\n")


def test_an_account_over_its_capacity_says_by_how_much(show):
    assert "over capacity by ×1.8 (shadow price 1.62s)" in show().out
    assert "over capacity by ×1.8" in show("--workflow", "invoices").out.splitlines()[-1]
    assert "over capacity" not in show(over_capacity_by=1.04).out


def test_a_pause_is_shown_but_not_the_gap_between_two_requests(show):
    assert "paused" not in show(paused_for_s=0.2).out
    assert "paused        for 30s" in show(paused_for_s=30.0).out


def test_each_workflow_has_its_line(show):
    *_, heading, line = show().out.splitlines()
    assert heading.split() == ["WORKFLOW", "RUNS", "MEDIAN", "P90", "P99", "POLLS", "PER", "RUN", "MEAN", "DELAY"]
    workflow, runs, median, *_, polls, delay = line.split()
    assert (workflow, polls, delay) == ("invoices", "–", "–")
    assert int(runs) > 20
    assert 30 < float(median.removesuffix("s")) < 32
    assert "nothing was learned" in show(learned=[]).out


def test_a_workflow_is_plotted_within_eighty_columns_without_colours_in_a_pipe(show):
    result = show("--workflow", "invoices", over_capacity_by=1.0)
    lines = result.out.splitlines()
    assert result.code == 0
    assert "\x1b" not in result.out
    assert max(map(len, lines)) <= 80
    assert "learned from" in lines[0]
    assert "polls per run expected" in lines[-2]
    assert lines[-1].startswith("half are done in 31")


def test_a_workflow_without_runs_says_so_and_what_was_probably_meant(show):
    result = show("--workflow", "invoces")
    assert result.out.startswith("no runs of invoces have ended yet at hub; so far this is assumed: (did you mean invo")
    assert show("--workflow", "").out.startswith("no runs without a workflow have ended yet")


def test_the_daemon_shows_what_it_knows_and_refuses_a_name_that_it_does_not(bridge):
    assert bridge("connections", "show", "dify-prod").out.startswith(("dify-prod unknown", "dify-prod ok"))
    shown = bridge("connections", "show", "dify-prod", "--workflow", "new", "--json").json
    assert shown["distribution"]["runs_remembered"] == 0
    assert "▲" in bridge("connections", "show", "dify-prod", "--workflow", "new").out
    unknown = bridge("connections", "show", "dify-prd")
    assert (unknown.code, "did you mean `dify-prod`" in unknown.err) == (1, True)


def test_checking_a_connection_distinguishes_a_good_key_from_a_wrong_one(bridge):
    right = bridge("connections", "check", "dify-prod")
    assert right.code == 0
    assert "takes the key and refuses a wrong one" in right.out
    assert "takes the key and refuses a wrong one" in bridge("connections", "show", "dify-prod").out
    wrong = bridge("connections", "check", "dify-wrong-key")
    assert "the key is refused; check api_key" in wrong.out
    assert wrong.code == 1
    assert wrong.out.startswith("✗")
    assert "not-the-key" not in wrong.out
    assert bridge("connections", "check").code == 1
    assert bridge("providers", "check", "dify").code == 1
    assert "no connection at retab" in bridge("providers", "check", "retab").out
