"""The daemon against a small model: any order of registering, trouble, crashes, switching off, replays and clock jumps.

Hypothesis chooses the steps and shrinks a failure to the shortest list of them. The daemon is the real one, in virtual
time, in a process that `tests/simulation/driven.py` drives.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

ROOT: Final = Path(__file__).parents[2]

EXAMPLES: Final = int(os.environ.get("RUNBRIDGE_EXAMPLES", "12"))
STEPS: Final = 14
PROVIDERS: Final = ("dibby", "retab", "dify", "instabase")
FAULTS: Final = ("500", "503", "429", "garbage", "html", "hang", "reset")
REPLIES: Final = 11  # RECEIVER_FAULTS
WANTED: Final = {
    "orderly": lambda kind: kind != "run.progressed",
    "plain": lambda kind: kind != "run.progressed",
    "finished": lambda kind: kind == "run.finished",
    "made": lambda kind: kind != "run.progressed",
}
CALM_S: Final = 2400.0  # longer than the longest retry interval of a life, 12 minutes, and all timeouts together


class Puppet:
    """A life in another process; one at a time, each forked from a process that has everything imported."""

    def __init__(self, *mutants: str) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.simulation.driven", *mutants],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, *command: Any) -> Any:
        """Give a command; its answer. AssertionError with the traceback if the life broke."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(command) + "\n")
        self._server.stdin.flush()
        said = json.loads(self._server.stdout.readline() or '{"error": "the process ended"}')
        assert "error" not in said, said["error"]
        return said["answer"]

    def close(self) -> None:
        """End the process."""
        self._server.kill()
        self._server.wait()
        for pipe in (self._server.stdin, self._server.stdout):
            if pipe is not None:
                pipe.close()


@dataclass
class Model:
    """The expected state. `runs`: when the provider ends a run and how, by our id.

    For the endpoint `made`: `off` is the number of events when it was switched off, `missed` are the events recorded
    while it was off, and `doubtful` those that may be either.
    """

    runs: dict[str, tuple[float, str]] = field(default_factory=dict)
    theirs: dict[str, tuple[str, str]] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)
    off: int | None = None
    missed: set[str] = field(default_factory=set)
    doubtful: set[str] = field(default_factory=set)
    events: list[Any] = field(default_factory=list)
    settled: dict[str, str] = field(default_factory=dict)


class Bridge(RuleBasedStateMachine):
    """Rules are what the world does; invariants are promises."""

    puppet: Puppet
    played: int

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.is_over = False

    @initialize(seed=st.integers(0, 2**16))
    def start(self, seed: int) -> None:
        self.endpoint = self.puppet.do("new", seed)

    # -- what is done

    @rule(
        provider=st.sampled_from(PROVIDERS),
        lasts_s=st.sampled_from([0.0, 5.0, 60.0, 900.0]),
        outcome=st.sampled_from(["succeeded", "failed"]),
    )
    def register(self, provider: str, lasts_s: float, outcome: str) -> None:
        age_s = self.look()["age_s"]
        theirs, status, ours = self.puppet.do("register", provider, lasts_s, outcome)
        assert status in (200, 201)  # 200: an answer was lost, and the request repeated
        assert ours not in self.model.runs
        self.model.runs[ours] = age_s + lasts_s, outcome
        self.model.theirs[ours] = provider, theirs

    @precondition(lambda self: self.model.runs)
    @rule(data=st.data())
    def register_again(self, data: st.DataObject) -> None:
        ours = data.draw(st.sampled_from(sorted(self.model.runs.keys() - self.model.stopped) or [""]))
        if ours:
            assert self.puppet.do("register_again", *self.model.theirs[ours]) == [200, ours]

    @precondition(lambda self: self.model.runs)
    @rule(data=st.data())
    def stop_watching(self, data: st.DataObject) -> None:
        ours = data.draw(st.sampled_from(sorted(self.model.runs)))
        status, _ = self.puppet.do("ask", "DELETE", f"/v1/runs/{ours}", None)
        assert status in (204, 404)
        self.model.stopped.add(ours)

    @rule(seconds=st.sampled_from([0.01, 1.0, 7.0, 45.0, 300.0, 1200.0]))
    def time_passes(self, seconds: float) -> None:
        self.puppet.do("rest", seconds)

    @rule(provider=st.sampled_from(PROVIDERS), kind=st.sampled_from([None, *FAULTS]))
    def change_provider(self, provider: str, kind: str | None) -> None:
        self.puppet.do("set_provider", provider, kind)

    @rule(endpoint=st.sampled_from(sorted(WANTED)), number=st.none() | st.integers(0, REPLIES - 1))
    def change_receiver(self, endpoint: str, number: int | None) -> None:
        self.puppet.do("set_receiver", endpoint, number)

    @rule(kind=st.sampled_from(["full", "failing"]), seconds=st.sampled_from([0.5, 20.0]))
    def break_disk(self, kind: str, seconds: float) -> None:
        self.puppet.do("set_disk", kind)
        self.puppet.do("rest", seconds)
        self.puppet.do("set_disk", None)

    @rule(callbacks=st.integers(0, 300))
    def crash_between_callbacks(self, callbacks: int) -> None:
        self.puppet.do("crash", {"callbacks": callbacks})

    @rule(statements=st.integers(0, 80))
    def crash_in_a_statement(self, statements: int) -> None:
        self.puppet.do("crash", {"statements": statements})

    @rule(seconds=st.sampled_from([-3600.0, -20.0, 20.0, 3600.0, 5 * 86400.0]))
    def set_the_clock(self, seconds: float) -> None:
        self.puppet.do("jump", seconds)

    @precondition(lambda self: self.model.off is None)
    @rule()
    def switch_off(self) -> None:
        before = len(self.look()["events"])
        self._change_endpoint("disable")
        seen = self.look()["events"]
        self.model.doubtful |= {event[0] for event in seen[before:]}
        self.model.off = len(seen)

    @precondition(lambda self: self.model.off is not None)
    @rule()
    def switch_on(self) -> None:
        before = len(self.look()["events"])
        self._change_endpoint("enable")
        seen = self.look()["events"]
        self.model.doubtful |= {event[0] for event in seen[before:]}
        self.model.missed |= {event[0] for event in seen[self.model.off : before]}
        self.model.off = None

    def _change_endpoint(self, how: str) -> None:
        status, answer = self.puppet.do("ask", "POST", f"/v1/endpoints/{self.endpoint}/{how}", None)
        assert status == 200, answer

    @rule()
    def replay_what_was_missed(self) -> None:
        body = {"since": "2020-01-01T00:00:00Z", "status": "missed"}
        status, answer = self.puppet.do("ask", "POST", f"/v1/endpoints/{self.endpoint}/replay", body)
        assert status == (202 if self.model.off is None else 409), answer
        if status == 202:
            self.model.doubtful |= self.model.missed
            self.model.missed.clear()

    # -- what must hold

    def look(self) -> Any:
        """Read runs and events, and check the promises that hold at every moment."""
        seen, model = self.puppet.do("look"), self.model
        assert seen["faults"] == []
        assert seen["events"][: len(model.events)] == model.events, "the feed has changed behind the reader"
        model.events = seen["events"]
        assert len({event[0] for event in model.events}) == len(model.events)
        for run_id, (status, is_settled) in seen["runs"].items():
            if run_id not in model.runs:
                continue  # registered by the very step that looks
            ends_s, outcome = model.runs[run_id]
            if is_settled and run_id not in model.stopped:
                assert (status, ends_s <= seen["age_s"]) == (outcome, True)
            if run_id in model.settled:
                assert status == model.settled[run_id], "a settled run has changed"
            if is_settled:
                model.settled[run_id] = status
        sequences = defaultdict(list)
        for _, kind, run_id, sequence, _ in model.events:
            if run_id is not None:
                sequences[run_id].append((sequence, kind))
        for told in sequences.values():
            assert [sequence for sequence, _ in told] == list(range(1, len(told) + 1))
            assert "run.finished" not in [kind for _, kind in told[:-1]]
        for posts in seen["posts"].values():
            bodies: defaultdict[str, set[str]] = defaultdict(set)
            for event_id, _, digest, is_verified in posts:
                assert is_verified
                bodies[event_id].add(digest)
            assert all(len(each) == 1 for each in bodies.values()), "the same event with other bytes"
        return seen

    @invariant()
    def promises_hold(self) -> None:
        if not self.is_over and hasattr(self, "puppet") and self.model.runs:
            self.look()

    def teardown(self) -> None:
        self.is_over = True
        try:
            self.puppet.do("mend")
            if self.model.off is not None:
                self.switch_on()
            self.puppet.do("rest", CALM_S)
            self._check_the_end(self.look())
            Bridge.played += 1
        finally:
            self.puppet.do("end")

    def _check_the_end(self, seen: Any) -> None:
        model = self.model
        for run_id, (_, outcome) in model.runs.items():
            if run_id not in model.stopped:
                assert seen["runs"].get(run_id) == [outcome, True]
                assert [event[1] for event in model.events if event[2] == run_id][-1:] == ["run.finished"]
        known = {event[0] for event in model.events}
        for name, wants in WANTED.items():
            posts = seen["posts"][name]
            assert {post[0] for post in posts} <= known | {None}
            taken = {post[0] for post in posts if post[1] == 204}
            wanted = {event[0] for event in model.events if wants(event[1])}
            assert wanted - taken <= (model.missed | model.doubtful if name == "made" else set()), (
                f"{name} never got these"
            )
            if name == "made":
                assert not {post[0] for post in posts} & (model.missed - model.doubtful), "it was off"
            assert {post[0] for post in posts} <= wanted


def play(examples: int, *mutants: str, phases: tuple[Phase, ...] = (Phase.generate, Phase.shrink)) -> int:
    """Run the state machine; the number of lists that were played to their end. Raises if a promise is broken.

    The steps are the same each time, unless `RUNBRIDGE_EXAMPLES` asks for more of them.
    """
    chosen = settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        phases=phases,
        derandomize="RUNBRIDGE_EXAMPLES" not in os.environ,
        database=None,
        report_multiple_bugs=False,
    )
    Bridge.puppet, Bridge.played = Puppet(*mutants), 0
    try:
        run_state_machine_as_test(Bridge, settings=chosen)
    finally:
        Bridge.puppet.close()
    return Bridge.played


@pytest.mark.slow
def test_the_daemon_agrees_with_the_model() -> None:
    assert play(EXAMPLES) >= EXAMPLES


@pytest.mark.slow
def test_a_planted_fault_is_found() -> None:
    with pytest.raises(AssertionError):
        play(50, "sequence-from-clock", phases=(Phase.generate,))
