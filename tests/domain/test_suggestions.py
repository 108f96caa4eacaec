"""Words about what was given: what was meant, what there is, and where it stands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.suggestions import closest, dotted, unknown

EVENTS = ["run.started", "run.finished", "run.waiting", "connection.failing"]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("run.finishd", "run.finished"),
        ("RUN.FINISHED", "run.finished"),
        ("runfinished", "run.finished"),
        ("run_started", "run.started"),
        ("connection.failed", "connection.failing"),
        ("run.done", "run.finished"),
        ("completed", "run.finished"),
        ("run.failed", "run.finished"),
        ("xyz", None),
        ("", None),
    ],
)
def test_a_slip_of_the_hand_is_recognised_and_nothing_is_invented(word: str, meant: str | None) -> None:
    assert closest(word, EVENTS) == meant


def test_the_known_word_is_reported_as_it_is_written() -> None:
    assert closest("dify-prod", ["Dify-Prod"]) == "Dify-Prod"


def test_the_sentence_shows_what_was_meant_else_what_there_is() -> None:
    assert unknown("event", "run.finishd", EVENTS) == "unknown event; did you mean `run.finished`?"
    assert unknown("provider", "xyz", ["retab", "dify"]) == "unknown provider; known: dify, retab"
    assert unknown("connection", "xyz", []) == "unknown connection; known: none"


@given(st.text(), st.lists(st.text()))
def test_any_word_is_answered_with_one_that_is_known_or_none(word: str, known: list[str]) -> None:
    assert closest(word, known) in {*known, None}


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (["webhook", "events", 0], "webhook.events[0]"),
        (["runs", 3, "webhook", "url"], "runs[3].webhook.url"),
        ([2, "url"], "[2].url"),
        (["tags", 0, 1], "tags[0][1]"),
        (["url"], "url"),
        ([], ""),
    ],
)
def test_a_path_is_written_as_a_person_would(parts: list[object], text: str) -> None:
    assert dotted(parts) == text
