"""An event's bytes: what stands in them, how they are spelled, and how large they get."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.domain.event import BODY_BYTES_MAX, Event, EventType, encode, other_event, run_event
from bridge.domain.run import Json, Progress, RunError, RunStatus
from tests.support.sample_run import sample_run

NOW = datetime(2026, 1, 15, 10, 30, 5, 120_000, tzinfo=UTC)
RUN_FIELDS = [
    "id", "connection", "provider", "provider_run_id", "workflow_id", "status", "provider_status", "settled",
    "progress", "output", "output_truncated", "error", "created_at", "started_at", "finished_at", "registered_at",
    "observed_at", "metadata", "tags",
]  # fmt: skip
storable_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
storable = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | storable_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(storable_text, inner, max_size=4),
    max_leaves=15,
)


def finished(**more: Any) -> Event:
    """The last event of a run that is as `more` says."""
    run = sample_run(**({"status": RunStatus.SUCCEEDED, "provider_status": "succeeded"} | more))
    return run_event("evt_1", EventType.RUN_FINISHED, run, sequence=3, previous_status=RunStatus.RUNNING, now=NOW)


def told_of(event: Event) -> dict[str, Any]:
    run: dict[str, Any] = json.loads(event.body)["data"]["run"]
    return run


def test_a_full_event_is_the_contracts_to_the_byte() -> None:
    event = finished(
        workflow_id="7c3e", progress=Progress(3, 5), output={"result": "Zoë"}, created_at="2026-01-15T10:00:00Z",
        started_at="2026-01-15T10:00:01Z", finished_at="2026-01-15T10:30:05Z", observed_at=NOW, tags=("a",),
        metadata={"order": 1},
    )  # fmt: skip
    assert event.body.decode() == (
        '{"id":"evt_1","type":"run.finished","timestamp":"2026-01-15T10:30:05.120Z","data":'
        '{"sequence":3,"previous_status":"running","run":'
        '{"id":"run_1","connection":"dify-prod","provider":"dify","provider_run_id":"abc","workflow_id":"7c3e",'
        '"status":"succeeded","provider_status":"succeeded","settled":true,"progress":{"completed":3,"total":5},'
        '"output":{"result":"Zoë"},"output_truncated":false,"error":null,"created_at":"2026-01-15T10:00:00Z",'
        '"started_at":"2026-01-15T10:00:01Z","finished_at":"2026-01-15T10:30:05Z",'
        '"registered_at":"2026-01-15T10:30:00.000Z","observed_at":"2026-01-15T10:30:05.120Z",'
        '"metadata":{"order":1},"tags":["a"]}}}'
    )


@pytest.mark.parametrize("status", list(RunStatus))
def test_no_field_is_ever_absent_and_what_is_unknown_is_null(status: RunStatus) -> None:
    run = told_of(finished(status=status, provider_status=None))
    assert list(run) == RUN_FIELDS
    unknown = {"workflow_id", "provider_status", "progress", "output", "error", "created_at", "started_at"}
    assert {name for name, value in run.items() if value is None} == unknown | {"finished_at", "observed_at"}
    assert run["settled"] is (status not in {"queued", "running", "waiting", "unknown"})


def test_an_error_has_its_three_parts_whatever_the_provider_reported() -> None:
    assert told_of(finished(error=RunError("broken")))["error"] == {"message": "broken", "code": None, "step": None}
    assert told_of(finished(error=RunError("a", "b", "c")))["error"] == {"message": "a", "code": "b", "step": "c"}


def test_an_event_knows_which_run_and_which_of_its_events_it_is() -> None:
    event = finished()
    assert (event.run_id, event.sequence, event.run_status) == ("run_1", 3, RunStatus.SUCCEEDED)
    assert event.created_at == NOW


@pytest.mark.parametrize("about", ["connection", "endpoint"])
def test_what_concerns_no_run_says_so_with_nulls_and_names_the_thing(about: str) -> None:
    event = other_event("evt_1", EventType.BRIDGE_PING, {about: {"id": "x"}}, now=NOW)
    assert json.loads(event.body) == {
        "id": "evt_1",
        "type": "bridge.ping",
        "timestamp": "2026-01-15T10:30:05.120Z",
        "data": {"sequence": None, "previous_status": None, "run": None, about: {"id": "x"}},
    }
    assert (event.run_id, event.sequence, event.run_status) == (None, None, None)


# --- bytes ---


@given(storable)
@example("Zoë \u2028\u2029 \U0001f600 \x7f \u200d \uffff \U0010ffff")
@example([0.1, 1e-7, 1e308, 5e-324, -0.0, 2**53 + 1, -(2**64), 10**4000])
def test_whatever_a_provider_reported_comes_out_as_it_went_in(output: Json) -> None:
    body = finished(output=output).body
    assert repr(json.loads(body)["data"]["run"]["output"]) == repr(output)


@given(storable)
def test_bytes_are_compact_utf_8_made_the_same_each_time(output: Json) -> None:
    body = finished(output=output).body
    assert body == finished(output=output).body
    beside_strings = re.sub(r'"(?:[^"\\]|\\.)*"', '""', body.decode())
    assert not re.search(r"\s", beside_strings)
    assert not re.search(r"\\u(?!00[01])", re.sub(r"\\\\", "", body.decode()))
    assert not body.startswith(b"\xef\xbb\xbf")


def test_text_beyond_ascii_stands_as_itself() -> None:
    assert '"Zoë 😀"'.encode() in finished(output="Zoë 😀").body


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_cannot_say_never_becomes_bytes(number: float) -> None:
    for value in (number, [number], {"deep": [{"er": number}]}):
        with pytest.raises(ValueError):
            encode(value)


# --- size ---


def padded(size: int) -> Event:
    """An event that would have exactly `size` bytes with its whole output."""
    spare = size - len(finished(output="").body)
    return finished(output="x" * spare)


def test_up_to_256_kib_an_event_is_whole() -> None:
    event = padded(256 * 1024)
    assert len(event.body) == BODY_BYTES_MAX == 256 * 1024
    assert told_of(event)["output_truncated"] is False
    assert "output_url" not in told_of(event)


def test_a_byte_more_and_the_output_gives_way_to_where_it_is() -> None:
    run = told_of(padded(256 * 1024 + 1))
    assert (run["output"], run["output_truncated"], run["output_url"]) == (None, True, "/v1/runs/run_1")
    assert set(run) == {*RUN_FIELDS, "output_url"}


def test_bytes_are_counted_and_not_characters() -> None:
    assert told_of(finished(output="😀" * 60_000))["output_truncated"] is False
    assert told_of(finished(output="😀" * 70_000))["output_truncated"] is True


def test_everything_else_stays_when_the_output_is_left_out() -> None:
    small = told_of(finished(output=None, metadata={"order": 1}, tags=("a",), error=RunError("broken")))
    large = told_of(finished(output=["x" * 300_000], metadata={"order": 1}, tags=("a",), error=RunError("broken")))
    changed = {name for name in small if small[name] != large[name]}
    assert changed == {"output_truncated"}
