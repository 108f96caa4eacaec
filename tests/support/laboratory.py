"""A laboratory: runs of every kind at the four sandbox providers, watched by a daemon, and what arrived of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bridge.domain.run import RunError
from bridge.sandbox import Received, Receiver, Reply, Sandbox, Scenario, Step
from tests.support.daemon_process import DaemonProcess

RUN_FIELDS = {
    "id", "connection", "provider", "provider_run_id", "workflow_id", "status", "provider_status", "settled", "progress",
    "output", "output_truncated", "error", "created_at", "started_at", "finished_at", "registered_at", "observed_at",
    "metadata", "tags",
}  # fmt: skip
OUTPUT = {"invoice": "INV-ü-001", "total": 1234.5, "lines": [{"n": 1}, {"n": 2}], "note": None}
ERROR = RunError("Page 2 cannot be read", "unreadable", "Extract")
PLAIN = ("run.started", "run.finished")
PAUSED = ("run.started", "run.waiting", "run.resumed", "run.finished")
AT_ONCE = ("run.finished",)
NEVER_ENDS = Scenario(duration_s=None)


@dataclass(frozen=True)
class Case:
    """One run to make: its scenario, and what a subscriber is to hear of it.

    `output` is what the event holds for a run with OUTPUT; `error` whether it has ERROR's message.
    """

    provider: str
    status: str
    word: str
    scenario: Scenario
    events: tuple[str, ...] = PLAIN
    shape: str | None = None
    output: Any = None
    error: bool = False
    late_404_s: float = 0.0
    age_s: float = 0.0
    deadline: str | None = None

    def __str__(self) -> str:
        more = [part for part, given in (("late", self.late_404_s), ("over", self.age_s)) if given]
        return "-".join([self.provider, self.shape or "new", self.status, self.word, *more])


def ends(outcome: str, **more: Any) -> Scenario:
    """A short scenario; long enough to be seen before its end by a daemon that shares its cores with others."""
    return Scenario(**({"duration_s": 4.0, "outcome": outcome, "output": OUTPUT, "error": ERROR} | more))


def pauses(word: str) -> Scenario:
    """A scenario with a wait for a person in the middle; each part is long enough to be seen."""
    return ends("succeeded", duration_s=7.5, steps=(Step(0, "running"), Step(2.5, word), Step(5, "running")))


IN_STEPS = {"extract-1": OUTPUT}  # Retab since May 2026: outputs lie in the run's steps, by block
FLAT = {"end-1": {"label": "Output", "json_data": OUTPUT}}
RESULTS = object()  # Instabase: the object of /results, whose files hold the output


def _retab(shape: str) -> list[Case]:
    output = FLAT if shape == "a" else IN_STEPS
    word = "awaiting_review" if shape.startswith("c") else "waiting_for_human"
    return [
        Case("retab", "succeeded", "completed", ends("succeeded"), shape=shape, output=output),
        Case("retab", "succeeded", "completed", pauses("waiting"), PAUSED, shape=shape, output=output),
        Case("retab", "succeeded", "completed", pauses(f"={word}"), PAUSED, shape=shape, output=output),
        Case("retab", "failed", "error", ends("failed"), shape=shape, error=True),
        Case("retab", "failed", "failed", ends("=failed"), shape=shape, error=True),
        Case("retab", "cancelled", "cancelled", ends("cancelled"), shape=shape, error=True),
    ]


def _dify(shape: str) -> list[Case]:
    nothing: Any = {} if shape == "new" else None  # the provider's own output, where there is none
    return [
        Case("dify", "succeeded", "succeeded", ends("succeeded"), shape=shape, output=OUTPUT),
        Case("dify", "succeeded", "succeeded", pauses("waiting"), PAUSED, shape=shape, output=OUTPUT),
        Case("dify", "partial", "partial-succeeded", ends("partial"), shape=shape, output=OUTPUT, error=True),
        Case("dify", "failed", "failed", ends("failed"), shape=shape, output=nothing, error=True),
        Case("dify", "cancelled", "stopped", ends("cancelled"), shape=shape, output=nothing, error=True),
    ]


QUEUES = (Step(0, "queued"), Step(3, "running"))
UNKNOWN = (Step(0, "running"), Step(3, "=PONDERING"))
CASES: tuple[Case, ...] = (
    Case("dibby", "succeeded", "FINISHED", ends("succeeded"), output=OUTPUT),
    Case("dibby", "succeeded", "FINISHED", ends("succeeded", duration_s=6, steps=QUEUES), output=OUTPUT),
    Case("dibby", "failed", "FAILED", ends("failed"), error=True),
    *[case for shape in ("a", "b", "c", "c-nested") for case in _retab(shape)],
    Case("retab", "succeeded", "completed", ends("succeeded", steps=(Step(0, "=queued"),)), AT_ONCE, output=IN_STEPS),
    *[case for shape in ("new", "old", "rfc822") for case in _dify(shape)],
    Case("dify", "succeeded", "succeeded", ends("succeeded", duration_s=6, steps=QUEUES), output=OUTPUT),
    Case("instabase", "succeeded", "COMPLETE", ends("succeeded"), output=RESULTS),
    Case("instabase", "succeeded", "COMPLETE", pauses("waiting"), PAUSED, output=RESULTS),
    Case("instabase", "succeeded", "COMPLETE", pauses("=PAUSED"), PAUSED, output=RESULTS),
    Case("instabase", "failed", "FAILED", ends("failed"), error=True),
    Case("instabase", "cancelled", "CANCELLED", ends("cancelled"), error=True),
    # an unknown word does not end a run
    *[
        Case(provider, "succeeded", word, ends("succeeded", duration_s=6, steps=UNKNOWN), output=output)
        for provider, word, output in (("dibby", "FINISHED", OUTPUT), ("retab", "completed", IN_STEPS),
                                       ("dify", "succeeded", OUTPUT), ("instabase", "COMPLETE", RESULTS))
    ],
    # not visible yet when it is registered, in each API's way of saying so
    Case("dibby", "succeeded", "FINISHED", ends("succeeded", duration_s=6), output=OUTPUT, late_404_s=1.5),
    Case("retab", "failed", "error", ends("failed", duration_s=6), error=True, late_404_s=1.5),
    Case("dify", "succeeded", "succeeded", ends("succeeded", duration_s=6), output=OUTPUT, late_404_s=1.5),
    Case("dify", "failed", "failed", ends("failed", duration_s=6), shape="old", error=True, late_404_s=1.5),
    Case("instabase", "cancelled", "CANCELLED", ends("cancelled", duration_s=6), error=True, late_404_s=1.5),
    # over before it was registered
    Case("dibby", "failed", "FAILED", ends("failed"), AT_ONCE, error=True, age_s=90),
    Case("retab", "succeeded", "completed", ends("succeeded"), AT_ONCE, shape="a", output=FLAT, age_s=90),
    Case("retab", "cancelled", "cancelled", ends("cancelled"), AT_ONCE, error=True, age_s=90),
    Case("dify", "partial", "partial-succeeded", ends("partial"), AT_ONCE, output=OUTPUT, error=True, age_s=90),
    Case("instabase", "succeeded", "COMPLETE", ends("succeeded"), AT_ONCE, output=RESULTS, age_s=90),
    # its own deadline passes
    Case("dify", "expired", "running", NEVER_ENDS, error=True, deadline="2s"),
)  # fmt: skip


@dataclass
class Watched:
    """A case under way: the answer to its registration, and every webhook about it, in order."""

    case: Case
    number: int
    provider_run_id: str
    registered: dict[str, Any] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)
    shown: dict[str, Any] = field(default_factory=dict)

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata of its registration."""
        return {"number": self.number, "order": f"Nº {self.number} ✓", "nested": {"empty": [], "none": None}}

    @property
    def tags(self) -> list[str]:
        """The tags of its registration."""
        return ["laboratory", f"tag-{self.number}"]

    @property
    def events(self) -> list[dict[str, Any]]:
        """The bodies that arrived, one of each id, by sequence."""
        by_id = {one.id: one.event for one in self.received}
        return sorted(by_id.values(), key=lambda event: event["data"]["sequence"])

    @property
    def finish(self) -> dict[str, Any]:
        """`data.run` of its `run.finished`; AssertionError where it has none, or several."""
        finishes = [event for event in self.events if event["type"] == "run.finished"]
        assert len(finishes) == 1, f"{self.case}: {len(finishes)} run.finished"
        run: dict[str, Any] = finishes[0]["data"]["run"]
        return run


@dataclass
class Laboratory:
    """Everything that happened."""

    secret: str
    watched: list[Watched]
    received: list[Received]
    log: str
    log_lines: list[dict[str, Any]]


async def run_laboratory(folder: Path, cases: Sequence[Case] = CASES) -> Laboratory:
    """Run every case; a third of the posts fail at first. Ends when every `run.finished` was accepted."""
    async with Sandbox(results_page_files=1) as sandbox, Receiver() as receiver:
        # long enough that no delivery fails by being the third one every time
        retries = ["100ms", "200ms", "200ms", "500ms", *["1s"] * 12]
        daemon = DaemonProcess(folder, delivery={"retry_schedule": retries})
        for provider in sandbox.providers:
            daemon.add_connection(f"{provider}-lab", provider, sandbox.url(provider))
        secret = daemon.add_endpoint("lab", receiver.url("/lab"))
        receiver.add_secret(secret)
        receiver.every(3, Reply(503))
        async with daemon:
            watched = await _register(daemon, sandbox, cases)
            await receiver.wait_for(lambda all_of_it: _finishes_taken(all_of_it) == len(cases), 45)
            for one in watched:
                one.shown = await daemon.ask("GET", f"/v1/runs/{one.registered['id']}")
            await daemon.stop()
            _sort(receiver.received, watched)
            return Laboratory(secret, watched, list(receiver.received), daemon.log_since(), daemon.log_lines())


async def _register(daemon: DaemonProcess, sandbox: Sandbox, cases: Sequence[Case]) -> list[Watched]:
    """Odd ones in one batch, even ones alone; each is made just before, so that its start is seen."""
    odd = [Watched(case, number, _make(sandbox, case)) for number, case in enumerate(cases) if number % 2]
    answer = await daemon.ask("POST", "/v1/runs/batch", {"runs": [_wanted(one) for one in odd]})
    for one, item in zip(odd, answer["data"], strict=True):
        assert item["status"] == 201, item
        one.registered = item["run"]
    even = []
    for number, case in list(enumerate(cases))[::2]:
        one = Watched(case, number, _make(sandbox, case))
        one.registered = await daemon.ask("POST", "/v1/runs", _wanted(one), status=201)
        even.append(one)
    return sorted(odd + even, key=lambda one: one.number)


def _make(sandbox: Sandbox, case: Case) -> str:
    return sandbox.add_run(
        case.provider,
        scenario=case.scenario,
        shape=case.shape,
        workflow_id="workflow-7",
        late_404_s=case.late_404_s,
        age_s=case.age_s,
    )


def _wanted(one: Watched) -> dict[str, Any]:
    wanted = {
        "connection": f"{one.case.provider}-lab",
        "provider_run_id": one.provider_run_id,
        "metadata": one.metadata,
        "tags": one.tags,
    }
    return wanted if one.case.deadline is None else {**wanted, "deadline": one.case.deadline}


def _finishes_taken(received: Sequence[Received]) -> int:
    taken = (one for one in received if one.type == "run.finished" and one.status == 204)
    return len({one.id for one in taken})


def _sort(received: Sequence[Received], watched: Sequence[Watched]) -> None:
    by_run: defaultdict[str, list[Received]] = defaultdict(list)
    for one in received:
        run = one.event.get("data", {}).get("run")
        if run:
            by_run[run["id"]].append(one)
    for one in watched:
        one.received = by_run[one.registered["id"]]
