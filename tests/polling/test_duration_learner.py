"""Several nodes learn how long the runs of a connection take, and adopt what the others have saved."""

from __future__ import annotations

import pytest

from bridge.domain.cadence.progress import ProgressTrack
from bridge.domain.run import RunStatus
from bridge.polling.duration_learner import DurationLearner
from bridge.store.learned_state import LearnedRow


def learn(learner: DurationLearner, *ages_s: float, progress: bool) -> None:
    """From runs that ended at these ages; with `progress` each reported two of its four steps."""
    for age_s in ages_s:
        if progress:
            track = ProgressTrack().seen(1, 4, age_s / 4).seen(2, 4, age_s / 2)
            learner.learn_progress("letters", track, age_s - 1, age_s)
        else:
            learner.learn("letters", RunStatus.RUNNING, age_s - 1, age_s, now=0.0)


def saved(learner: DurationLearner) -> set[LearnedRow]:
    return set(learner.take_unsaved())


@pytest.mark.parametrize("progress", [False, True], ids=["durations", "progress"])
def test_what_another_node_saved_is_adopted_and_what_was_learned_here_since_is_added(progress: bool) -> None:
    here, there, alone = DurationLearner(), DurationLearner(), DurationLearner()
    learn(there, 100.0, 140.0, progress=progress)
    learn(here, 10.0, progress=progress)
    here.adopt(there.take_unsaved())
    learn(alone, 100.0, 140.0, progress=progress)
    rows = saved(alone)
    again = DurationLearner(rows)
    learn(again, 10.0, progress=progress)
    assert saved(here) == saved(again) != rows


@pytest.mark.parametrize("progress", [False, True], ids=["durations", "progress"])
def test_what_is_saved_already_is_not_learned_twice(progress: bool) -> None:
    here, there = DurationLearner(), DurationLearner()
    learn(here, 10.0, progress=progress)
    there.adopt(here.take_unsaved())
    learn(there, 100.0, progress=progress)
    rows = there.take_unsaved()
    here.adopt(rows)
    learn(here, 50.0, progress=progress)
    expected = DurationLearner(rows)
    learn(expected, 50.0, progress=progress)
    assert saved(here) == saved(expected)
