"""Scenarios."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.run import RunStatus
from bridge.sandbox.dibby import Dibby
from bridge.sandbox.dify import Dify
from bridge.sandbox.retab import Retab
from bridge.sandbox.scenarios import ProviderStep, RunSnapshot, Scenario, Step, Vocabulary, provider_steps, snapshot_at

DIFY = Vocabulary("dify", Dify.words, Dify.rare_words)
RETAB = Vocabulary("retab", Retab.words, Retab.rare_words)
DIBBY = Vocabulary("dibby", Dibby.words, Dibby.rare_words)


def snapshot(scenario: Scenario, age_s: float, words: Vocabulary = DIFY) -> RunSnapshot:
    return snapshot_at(provider_steps(scenario, words), age_s, scenario=scenario)


def test_a_life_shows_each_step_from_its_second_on_and_then_its_outcome() -> None:
    scenario = Scenario(
        duration_s=10, outcome="failed", steps=(Step(1, "running"), Step(4, "waiting"), Step(6, "running"))
    )
    seen = [snapshot(scenario, age_s).word for age_s in (0, 0.99, 1, 4, 5.9, 6, 9.9, 10, 1e9)]
    assert seen == ["scheduled", "scheduled", "running", "paused", "paused", "running", "running", "failed", "failed"]


def test_started_and_finished_are_the_ages_at_which_it_happened() -> None:
    scenario = Scenario(duration_s=10, steps=(Step(2, "running"),))
    assert (snapshot(scenario, 1).started_after_s, snapshot(scenario, 3).started_after_s) == (None, 2)
    assert (snapshot(scenario, 9).finished_after_s, snapshot(scenario, 50).finished_after_s) == (None, 10)


def test_a_life_without_duration_never_ends() -> None:
    assert snapshot(Scenario(duration_s=None), 1e9).status is RunStatus.RUNNING


def test_a_status_may_go_backwards_after_the_end() -> None:
    """The bridge has to ignore that, so the sandbox must be able to do it."""
    scenario = Scenario(duration_s=2, steps=(Step(0, "running"), Step(3, "running")))
    assert [snapshot(scenario, age_s).word for age_s in (1, 2, 3)] == ["running", "succeeded", "running"]


def test_progress_grows_while_running_stands_still_while_waiting_and_is_full_only_with_success() -> None:
    scenario = Scenario(duration_s=10, steps=(Step(0, "running"), Step(4, "waiting")), parts=10)
    assert [snapshot(scenario, age_s).completed for age_s in (0, 2.5, 4, 9.99, 10)] == [0, 2, 3, 3, 10]


def test_progress_written_into_a_step_is_reported_as_written() -> None:
    assert snapshot(Scenario(steps=(Step(0, "running", completed=3),)), 0.1).completed == 3


def test_a_word_that_is_not_canonical_is_sent_as_it_stands() -> None:
    assert snapshot(Scenario(steps=(Step(0, "hibernating"),)), 0).word == "hibernating"
    assert snapshot(Scenario(steps=(Step(0, "hibernating"),)), 0).status is RunStatus.UNKNOWN


def test_an_equals_sign_sends_a_word_raw_that_is_also_canonical() -> None:
    assert snapshot(Scenario(steps=(Step(0, "=queued"),)), 0, RETAB) == RunSnapshot(
        "queued", RunStatus.QUEUED, 0, None, None
    )
    assert snapshot(Scenario(outcome="=failed"), 99, RETAB).status is RunStatus.FAILED


@pytest.mark.parametrize("word", ["partial", "cancelled", "expired", "unknown"])
def test_a_status_that_a_provider_has_no_word_for_is_refused_with_those_it_has(word: str) -> None:
    with pytest.raises(ValueError, match=f"dibby has no word for {word}; it has one for failed, queued"):
        provider_steps(Scenario(outcome=word), DIBBY)


@given(
    steps=st.lists(st.tuples(st.floats(0, 100), st.sampled_from(["queued", "running", "waiting"])), max_size=5),
    duration_s=st.floats(0, 100),
    ages=st.lists(st.floats(0, 300), min_size=2, max_size=8),
)
def test_the_state_depends_on_nothing_but_script_and_age(
    steps: list[tuple[float, str]], duration_s: float, ages: list[float]
) -> None:
    """Asking more often, or in another order, must not change what a run does."""
    scenario = Scenario(duration_s=duration_s, steps=tuple(Step(*step) for step in steps))
    forth = {age_s: snapshot(scenario, age_s) for age_s in ages}
    assert {age_s: snapshot(scenario, age_s) for age_s in reversed(ages)} == forth
    assert all(0 <= one.completed <= scenario.parts for one in forth.values())


def test_beats_are_in_order_of_time_whatever_the_order_of_the_steps() -> None:
    steps = provider_steps(Scenario(duration_s=9, steps=(Step(5, "waiting"), Step(0, "running"))), DIFY)
    assert steps == (
        ProviderStep(0, "running", RunStatus.RUNNING, None),
        ProviderStep(5, "paused", RunStatus.WAITING, None),
        ProviderStep(9, "succeeded", RunStatus.SUCCEEDED, None),
    )
