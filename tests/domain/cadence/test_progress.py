"""Progress: learned, not believed."""

from __future__ import annotations

import math
import random
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.domain.cadence.durations import DurationModel
from bridge.domain.cadence.estimate import plan_polls
from bridge.domain.cadence.progress import LAST_STEP, ProgressModel, ProgressTrack


def test_only_a_move_forward_makes_a_mark() -> None:
    track = ProgressTrack().seen(2, 5, 10.0)
    assert track.latest is not None
    assert track.seen(2, 5, 20.0).latest == track.latest
    assert track.seen(1, 5, 20.0).latest == track.latest
    assert track.seen(3, 5, 20.0).latest != track.latest


@pytest.mark.parametrize(("completed", "total"), [(0, 5), (0, 0), (-1, 5), (6, 5), (1, 0), (math.nan, 5)])
def test_progress_that_means_nothing_is_passed_over(completed: float, total: float) -> None:
    assert ProgressTrack().seen(completed, total, 10.0).latest is None


def test_the_last_step_is_a_class_of_its_own() -> None:
    mark = ProgressTrack().seen(4, 5, 10.0).latest
    assert mark is not None
    assert mark.kind == LAST_STEP


def test_everything_done_is_not_yet_the_end() -> None:
    mark = ProgressTrack().seen(100, 100, 50.0).latest
    assert mark is not None
    assert mark.unit_s > 0


@pytest.mark.slow
@given(
    steps=st.lists(st.tuples(st.integers(0, 9), st.floats(0.1, 1e4)), max_size=6),
    wait=st.floats(0, 1e4),
    price=st.floats(0.01, 100),
)
@settings(deadline=None, max_examples=60)
def test_the_next_poll_keeps_within_the_two_intervals(
    steps: list[tuple[int, float]], wait: float, price: float
) -> None:
    track, age = ProgressTrack(), 0.0
    for completed, later in steps:
        age += later
        track = track.seen(completed, 9, age)
    learner = ProgressModel()
    if learner.is_useful(track):
        alive = age + wait
        found = learner.next_age(track, alive, price, 0.25, 300.0) - alive
        assert 0.25 - 1e-9 * (1 + alive) <= found <= 300.0 + 1e-9 * (1 + alive)
        assert learner.lateness(track, alive, alive + 5.0) >= 0


def run_workflow(learner: ProgressModel, plain: DurationModel, runs: int, last_factor: float) -> list[float]:
    """Delays of runs of ten steps whose last one takes `last_factor` times as long."""
    chance, delays = random.Random(5), []
    for _ in range(runs):
        speed = 5 * math.exp(0.8 * chance.gauss(0, 1))
        ends = [speed * (i + 1) for i in range(9)]
        ends.append(ends[-1] + speed * last_factor)
        track, alive = ProgressTrack(), 0.0
        while True:
            ready = learner.is_useful(track)
            source = learner.next_age(track, alive, 0.5, 0.25, 300.0) if ready else None
            age = plain.estimate.next_age(alive, 0.5, 0.25, 300.0) if source is None else source
            if age >= ends[-1]:
                break
            track, alive = track.seen(sum(end <= age for end in ends), 10, age), age
        delays.append(age - ends[-1])
        learner.observe(track, alive, age, plain.estimate)
        plain.observe(alive, age)
    return delays


def plain_delays(runs: int, last_factor: float) -> list[float]:
    """The delays of the same runs for a learner whose progress is never useful."""

    class Deaf(ProgressModel):
        def is_useful(self, track: ProgressTrack) -> bool:
            return False

    return run_workflow(Deaf(), DurationModel(), runs, last_factor)


@pytest.mark.slow
@pytest.mark.parametrize("last_factor", [1.0, 6.0])
def test_progress_is_worth_half_the_delay_even_where_the_last_step_misleads(last_factor: float) -> None:
    """Runs of very different speed: age alone says little, nine steps of ten say nearly everything."""
    with_it = run_workflow(ProgressModel(), DurationModel(), 60, last_factor)[20:]
    assert sum(with_it) < 0.6 * sum(plain_delays(60, last_factor)[20:])


def test_progress_that_means_nothing_loses_its_say() -> None:
    """A provider that counts steps at random: age alone foretells better, and decides from then on."""
    chance, learner, plain = random.Random(6), ProgressModel(), DurationModel()
    for _ in range(40):
        end = chance.uniform(95, 105)
        plain.observe(end - 1, end)
        at = chance.uniform(5, 80)
        learner.observe(ProgressTrack().seen(chance.randint(1, 9), 10, at), end - 1, end, plain.estimate)
    assert learner.trust < 0
    assert not learner.is_useful(ProgressTrack().seen(5, 10, 50.0))


def test_a_restart_changes_no_decision() -> None:
    learner = ProgressModel()
    run_workflow(learner, DurationModel(), 12, 2.0)
    again = ProgressModel.load(learner.dump())
    track = ProgressTrack().seen(6, 10, 30.0)
    assert again.next_age(track, 31.0, 0.5, 0.25, 300.0) == learner.next_age(track, 31.0, 0.5, 0.25, 300.0)
    assert again.dump() == learner.dump()


@pytest.mark.parametrize("text", [None, "", "[]", '{"v":1}', '{"v":1,"trust":0,"shared":{},"kinds":{"99":{}}}', "{"])
def test_garbage_in_the_row_means_a_fresh_start(text: str | None) -> None:
    assert ProgressModel.load(text).dump() == ProgressModel().dump()


def test_runs_of_any_speed_share_a_few_plans() -> None:
    """A plan takes milliseconds. Price and min_interval in units of a run's own speed are different for every run."""
    chance, learner, plain = random.Random(3), ProgressModel(), DurationModel()
    for _ in range(20):
        end = 60 * math.exp(0.3 * chance.gauss(0, 1))
        learner.observe(ProgressTrack().seen(2, 5, 0.4 * end), 0.95 * end, end, plain.estimate)
    with mock.patch("bridge.domain.cadence.estimate.plan_polls", wraps=plan_polls) as made:
        for _ in range(300):
            track = ProgressTrack().seen(2, 5, chance.uniform(20, 30))
            assert learner.next_age(track, track.latest.at_s, 5.0, 0.25, 300.0) > track.latest.at_s
    assert 0 < made.call_count < 15
