"""The plot of a learned distribution: what stands where, and that it fits."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bridge.cli.plot import MARGIN, ROWS, draw
from bridge.domain.connection import CadenceSettings
from bridge.domain.run import RunStatus
from bridge.domain.timestamps import parse_duration
from bridge.polling.duration_learner import DurationLearner
from bridge.polling.planner import Planner

LIVES = {
    "nothing is known": [],
    "half a minute": [28, 29, 30, 31, 32] * 6,
    "short or long": [5, 120] * 20,
    "below the grid": [0.05] * 40,
    "a day": [86400] * 40,
    "weeks": [20 * 86400] * 40,
}


def learned(durations_s):
    planner = Planner(CadenceSettings(), DurationLearner())
    for number, duration_s in enumerate(durations_s):
        planner.learner.learn("wf", RunStatus.RUNNING, duration_s * 0.99, duration_s * 1.01, now=number * 10.0)
    return planner.distribution("wf")


def plotted(durations_s, width=80):
    """Bars from top to bottom, axis, labels, marks; as plain text."""
    *bars, axis, labels, marks = (line.plain for line in draw(learned(durations_s), width))
    return bars, axis, labels, marks


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("durations_s", LIVES.values(), ids=LIVES)
def test_whatever_was_learned_fits_and_says_where_it_stands(durations_s, width):
    bars, axis, labels, marks = plotted(durations_s, width)
    assert len(bars) == ROWS
    assert max(len(line) for line in (*bars, axis, labels, marks)) <= width
    assert "█" in bars[0] or "▇" in bars[0]
    shown = [parse_duration(label) for label in labels.split()]
    assert len(shown) == axis.count("┬") >= 2
    assert shown == sorted(set(shown))
    assert set(marks) & set("▲◂▸")


def test_bars_stand_on_each_other():
    bars, *_ = plotted(LIVES["short or long"])
    for upper, lower in pairwise(bars):
        assert all(lower[column] == "█" for column, mark in enumerate(upper) if mark != " ")


def test_the_highest_bar_stands_over_its_label_and_a_gap_is_a_gap():
    bars, axis, labels, _ = plotted(LIVES["short or long"])
    ticks = dict(zip(labels.split(), (at for at, mark in enumerate(axis) if mark == "┬"), strict=True))
    full = [column for column, mark in enumerate(bars[-1]) if mark == "█"]
    assert min(abs(column - ticks["5s"]) for column in full) <= 1
    assert min(abs(column - ticks["2m"]) for column in full) <= 1
    assert not any(ticks["10s"] < column < ticks["1m"] for column in full)


def test_polls_are_marked_where_they_are_planned_and_those_beyond_the_axis_at_its_end():
    distribution = {
        "cells": [{"from_s": 10.0 * 2**n, "to_s": 20.0 * 2**n, "share": 0.25} for n in range(4)],
        "planned_polls_s": [0.0, 5.0, 40.0, 500.0],
    }
    *_, marks = (line.plain for line in draw(distribution, 80))
    middle = MARGIN + (80 - 2 * MARGIN) // 2
    assert [marks.index(mark) for mark in "◂▲▸"] == [MARGIN, middle, 80 - MARGIN - 1]
    assert len(marks.split()) == 3
