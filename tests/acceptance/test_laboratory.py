"""Every kind of run at every provider, old shapes and new: what a subscriber hears is right, whole and verified."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from standardwebhooks import Webhook

from bridge import __version__
from tests.support.daemon_process import TOKEN
from tests.support.laboratory import CASES, OUTPUT, RESULTS, RUN_FIELDS, Laboratory, Watched, run_laboratory

RFC_3339_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
NUMBERS = range(len(CASES))
NAMES = [f"{number}-{case}" for number, case in enumerate(CASES)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def laboratory(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Laboratory]:
    folder: Path = tmp_path_factory.mktemp("laboratory")
    yield await run_laboratory(folder)


def files_output(results: Any) -> dict[str, Any]:
    """The fields of an Instabase results object."""
    fields = [field for file in results["files"] for document in file["documents"] for field in document["fields"]]
    return {field["field_name"]: field["value"] for field in fields}


@pytest.mark.parametrize("number", NUMBERS, ids=NAMES)
def test_the_finish_has_the_outcome_the_providers_word_the_output_and_the_error(
    laboratory: Laboratory, number: int
) -> None:
    one = laboratory.watched[number]
    case, run = one.case, one.finish
    assert (run["status"], run["provider_status"], run["settled"]) == (case.status, case.word, True)
    if case.output is RESULTS:
        assert files_output(run["output"]) == OUTPUT
    else:
        assert run["output"] == case.output
    assert run["output_truncated"] is False
    if case.status == "expired":
        assert run["error"]["message"]
    elif case.error:
        assert run["error"]["message"] == "Page 2 cannot be read"
    else:
        assert run["error"] is None


@pytest.mark.parametrize("number", NUMBERS, ids=NAMES)
def test_the_events_of_a_run_are_in_order_and_numbered_without_gaps(laboratory: Laboratory, number: int) -> None:
    one = laboratory.watched[number]
    events = one.events
    assert [event["data"]["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert tuple(event["type"] for event in events) == one.case.events
    assert one.shown["events"] == events


def test_a_run_has_one_finish_under_one_id(laboratory: Laboratory) -> None:
    finishes: defaultdict[str, set[str]] = defaultdict(set)
    for received in laboratory.received:
        if received.type == "run.finished":
            finishes[received.event["data"]["run"]["id"]].add(received.id)
    assert {run_id: len(ids) for run_id, ids in finishes.items()} == {
        one.registered["id"]: 1 for one in laboratory.watched
    }


def test_each_post_verifies_with_the_official_library_under_its_events_id(laboratory: Laboratory) -> None:
    webhook = Webhook(laboratory.secret)
    for received in laboratory.received:
        event = webhook.verify(received.body, received.headers)
        assert event["id"] == received.headers["webhook-id"]
        assert received.headers["content-type"] == "application/json"
        assert received.headers["user-agent"] == f"runbridge/{__version__}"
        assert re.fullmatch(r"v1,[A-Za-z0-9+/]{43}=", received.headers["webhook-signature"])


def test_a_retry_brings_the_same_bytes(laboratory: Laboratory) -> None:
    bodies: defaultdict[str, list[bytes]] = defaultdict(list)
    for received in laboratory.received:
        bodies[received.id].append(received.body)
    retried = [sent for sent in bodies.values() if len(sent) > 1]
    assert retried
    assert all(len(set(sent)) == 1 for sent in retried)


def test_an_accepted_delivery_is_not_sent_again(laboratory: Laboratory) -> None:
    taken = [received.id for received in laboratory.received if received.status == 204]
    assert len(taken) == len(set(taken))


def test_a_body_has_exactly_the_fields_of_the_contract(laboratory: Laboratory) -> None:
    for received in laboratory.received:
        event = received.event
        assert set(event) == {"id", "type", "timestamp", "data"}
        assert set(event["data"]) == {"sequence", "previous_status", "run"}
        run = event["data"]["run"]
        assert set(run) == RUN_FIELDS
        assert run["progress"] is None or set(run["progress"]) == {"completed", "total"}
        assert run["error"] is None or set(run["error"]) == {"message", "code", "step"}


def test_an_answer_about_a_run_has_every_field_of_an_event_and_its_polls(laboratory: Laboratory) -> None:
    for one in laboratory.watched:
        for shown in (one.registered, one.shown):
            assert set(shown) >= RUN_FIELDS | {"polls", "last_polled_at", "next_poll_at"}
        assert {key: one.shown[key] for key in RUN_FIELDS} == one.finish
        assert one.shown["polls"] >= 1
        assert one.shown["next_poll_at"] is None


def test_a_registration_answers_queued_before_the_first_poll(laboratory: Laboratory) -> None:
    for one in laboratory.watched:
        shown = one.registered
        assert (shown["status"], shown["provider_status"], shown["settled"]) == ("queued", None, False)


def test_metadata_and_tags_come_back_as_they_were_given(laboratory: Laboratory) -> None:
    for one in laboratory.watched:
        for run in (one.registered, one.shown, *(event["data"]["run"] for event in one.events)):
            assert (run["metadata"], run["tags"]) == (one.metadata, one.tags)
            assert run["provider_run_id"] == one.provider_run_id
            assert (run["connection"], run["provider"]) == (f"{one.case.provider}-lab", one.case.provider)


def test_times_are_rfc_3339_in_utc_or_null(laboratory: Laboratory) -> None:
    for received in laboratory.received:
        event = received.event
        run = event["data"]["run"]
        always = [event["timestamp"], run["registered_at"], run["observed_at"]]
        perhaps = [run[name] for name in ("created_at", "started_at", "finished_at") if run[name] is not None]
        for text in always + perhaps:
            assert RFC_3339_UTC.fullmatch(text), text
            assert datetime.fromisoformat(text)


def provider_times(one: Watched) -> tuple[bool, bool, bool]:
    run = one.finish
    return tuple(run[name] is not None for name in ("created_at", "started_at", "finished_at"))


def test_a_time_that_the_provider_does_not_report_is_null(laboratory: Laboratory) -> None:
    times_of = {"dibby": (True, False, False), "dify": (True, False, True), "instabase": (False, True, True)}
    for one in laboratory.watched:
        if one.case.provider in times_of and one.case.status != "expired":
            assert provider_times(one) == times_of[one.case.provider], one.case


def test_progress_is_what_the_provider_reports_and_null_elsewhere(laboratory: Laboratory) -> None:
    for one in laboratory.watched:
        assert (one.finish["progress"] is not None) is (one.case.provider == "dibby"), one.case
        if one.case.provider == "dibby" and one.case.status == "succeeded":
            assert one.finish["progress"] == {"completed": 5, "total": 5}


def test_the_transitions_join_up_from_queued_to_the_outcome(laboratory: Laboratory) -> None:
    for one in laboratory.watched:
        steps = one.shown["transitions"]
        assert all(set(step) == {"at", "from", "to", "provider_status"} for step in steps)
        words = [step["from"] for step in steps] + [one.case.status]
        assert words[0] == "queued"
        assert [step["to"] for step in steps] == words[1:]


def test_an_unmapped_word_is_unknown_warned_of_once_and_no_end(laboratory: Laboratory) -> None:
    pondering = [
        one for one in laboratory.watched if any(s["provider_status"] == "PONDERING" for s in one.shown["transitions"])
    ]
    assert {one.case.provider for one in pondering} == {"dibby", "retab", "dify", "instabase"}
    assert all("unknown" in [step["to"] for step in one.shown["transitions"]] for one in pondering)
    warned = [line["connection"] for line in laboratory.log_lines if line["event"] == "run.status_unmapped"]
    assert sorted(warned) == ["dibby-lab", "dify-lab", "instabase-lab", "retab-lab"]


def test_the_log_holds_no_secret_and_no_traceback(laboratory: Laboratory) -> None:
    for secret in (laboratory.secret, laboratory.secret.removeprefix("whsec_"), TOKEN, "sandbox-key"):
        assert secret not in laboratory.log
    assert "Traceback" not in laboratory.log
    assert all(json.loads(line) for line in laboratory.log.splitlines())
