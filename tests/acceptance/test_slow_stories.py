"""Judges the slow stories, which have been going on behind the other tests since the first of this folder."""

from __future__ import annotations

from bridge.sandbox.demo import own_command
from tests.acceptance.slowly import Slowly
from tests.acceptance.stories import posts


def test_a_run_that_its_provider_forgets_is_lost_after_five_404s_over_a_minute_not_before(
    slowly: Slowly,
) -> None:
    seen = slowly.outcome_of("lose_a_run")
    runs = [event["data"]["run"] for event in seen["finishes"]]
    assert sorted(run["provider"] for run in runs) == ["dibby", "dify", "instabase", "retab"]
    for run in runs:
        assert (run["status"], run["settled"]) == ("lost", True)
        assert run["error"]["message"]
        asked = [one.at for one in seen["requests"] if one.run_id == run["provider_run_id"]]
        assert len(asked) >= 5
        assert (asked[-1] - asked[0]).total_seconds() > 55  # a minute from answer to answer; these arrived


def test_sigterm_lets_a_slow_post_end_and_exits_0(slowly: Slowly) -> None:
    seen = slowly.outcome_of("drain")
    assert seen["code"] == 0
    assert "Traceback" not in seen["log"]
    slow = next(one for one in seen["deliveries"] if one["endpoint_id"] == "slow")
    assert [attempt["outcome"] for attempt in slow["attempts"]] == ["delivered"]
    assert len(posts(seen["received"], "/slow")) == 1


def test_a_post_cut_off_by_sigterm_costs_no_attempt_and_is_made_again_after_the_restart(
    slowly: Slowly,
) -> None:
    seen = slowly.outcome_of("drain")
    hanging = next(one for one in seen["deliveries"] if one["endpoint_id"] == "hanging")
    assert (hanging["state"], hanging["failure_count"]) == ("delivered", 0)
    first, second = posts(seen["received"], "/hanging")
    assert (first.id, first.body) == (second.id, second.body)
    assert second.verified


def test_a_refused_key_makes_the_connection_failing_once_and_stops_the_polling(slowly: Slowly) -> None:
    seen = slowly.outcome_of("refuse_the_key")
    about = [event for event in seen["events"] if event["type"].startswith("connection.")]
    assert [event["type"] for event in about] == ["connection.failing", "connection.recovered"]
    for event in about:
        data = event["data"]
        assert (data["sequence"], data["previous_status"], data["run"]) == (None, None, None)
        assert "dify" in str(data["connection"])
    assert seen["refused"] <= 6  # the four that were under way, and the probe
    assert (seen["shown"]["health"], bool(seen["shown"]["reason"])) == ("failing", True)


def test_a_refused_key_is_no_state_of_a_run_and_all_finish_once_it_works_again(slowly: Slowly) -> None:
    seen = slowly.outcome_of("refuse_the_key")
    assert {run["status"] for run in seen["waiting"]} == {"queued"}
    finishes = [event["data"]["run"] for event in seen["events"] if event["type"] == "run.finished"]
    assert [run["status"] for run in finishes] == ["succeeded"] * 30


def test_every_answer_conforms_to_the_openapi_document(slowly: Slowly) -> None:
    code, said, log = slowly.outcome_of("fuzz")
    assert code == 0, said
    assert "request.failed" not in log
    assert "Traceback" not in log


def test_the_demo_shows_every_finish_verified_and_ends_with_0(slowly: Slowly) -> None:
    code, said = slowly.outcome_of("demonstrate")
    assert code == 0, said
    assert "verified" in said
    assert "missing" not in said
    assert f"{own_command()} serve" in " ".join(said.split())
