"""The promises about runs and events, checked from outside at the end of a life.

The truth is what the simulated providers know, what the API promised to clients, and what the receivers logged. The
daemon is asked through its API. `delivery_checker` judges what was sent, `file_checker` looks into the database.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from bridge.domain.run import RunStatus
from tests.simulation import delivery_checker, status_checker
from tests.simulation.world import MIN_INTERVAL_S, TWIN

if TYPE_CHECKING:
    from tests.simulation.world import Registration, World

PAGE: Final = 200
NOTICED_S: Final = 120.0 + 60.0  # max_interval, and some time to say it
KNOWN: Final = ("workflow_id", "created_at", "started_at", "observed_at", "progress")
FETCHES_OUTPUT: Final = ("retab", "instabase")  # with a second request, whose failure leaves null


async def find_backlog(life: World) -> list[str]:
    """Deliveries that still wait when the longest retry interval and a minute have passed in calm."""
    old = [each async for each in _pages(life, "/v1/deliveries?state=pending")]
    calm_s = life.calm_at_s
    return [
        f"still pending {life.now_s - calm_s:.0f} s after the last trouble: {each}"
        for each in old
        if all(at_s < life.now_s - 60 for at_s in times_of(life, each["created_at"]))
    ]


async def find_faults(life: World) -> list[str]:
    """Every promise that was broken, as a sentence; none if all is well."""
    await life.clients.read_feed()
    runs = {run["id"]: run async for run in _pages(life, "/v1/runs")}
    events = [event async for event in _pages(life, "/v1/events")]
    pending = [each async for each in _pages(life, "/v1/deliveries?state=pending")]
    exhausted = [each async for each in _pages(life, "/v1/deliveries?state=exhausted")]
    metrics = await life.ask_again("GET", "/metrics")
    faults = [
        *_runs(life, runs),
        *_feed(life, events),
        *_events(life, runs),
        *_connections(life),
        *_triggers(life),
        *(_intervals(life) if life.pace == 1 else ()),
        *delivery_checker.find_faults(life, exhausted),
        *await status_checker.find_faults(life, _pages),
    ]
    faults += [f"delivery {each['id']} still waits: {each}" for each in pending]
    faults += [f"unhandled: {fault}" for fault in life.unhandled if "never retrieved" not in str(fault)]
    for line in life.log:
        text = str(line)
        faults += [f"a secret in the log: {line.get('event')}" for secret in life.secrets if secret in text]
    return faults + ([f"/metrics: {metrics[0]}"] if metrics[0] != 200 else [])


async def _pages(life: World, path: str) -> Any:
    ask = life.ask_until if life.has_nodes else life.ask  # a node may still find a connection that was silenced before
    after, mark = None, "&" if "?" in path else "?"
    word = "after" if path == "/v1/events" else "cursor"
    while True:
        cursor = f"&{word}={after}" if after else ""
        status, page = await ask("GET", f"{path}{mark}limit={PAGE}{cursor}")
        if status != 200:
            raise AssertionError(f"GET {path}: {status} {page}")
        for each in page["data"]:
            yield each
        after = page.get("next_cursor")
        if not after or len(page["data"]) < PAGE:
            return


def times_of(life: World, text: str) -> list[float]:
    """The monotonic times at which the wall clock may have shown this."""
    return life.clock.times_of(datetime.fromisoformat(text).timestamp())


# -- runs


def _runs(life: World, runs: dict[str, Any]) -> Iterator[str]:
    """A run that was accepted is there, with the outcome that the provider knows, what was registered, and its output."""
    entries = [entry for entry in life.clients.registrations if entry.body.get("provider_run_id")]
    ids = [entry.run_id for entry in entries if entry.run_id]
    if len(ids) != len(set(ids)):
        yield "two registrations of different runs have one id"
    finished = {event["data"]["run"]["id"]: event for event in life.clients.feed.events if _is_finish(event)}
    for entry in entries:
        if entry.run_id is None:
            yield f"a registration was never answered: {entry}"
            continue
        run = runs.get(entry.run_id)
        if entry.removed_after is not None:
            if run is not None:
                yield f"{entry.run_id} was removed and is still there"
            continue
        if run is not None:
            yield from _run(life, entry, run)
        elif entry.run_id not in finished:
            yield f"accepted and then lost: {entry}"
        else:  # retention deletes it, but not before its time
            event = finished[entry.run_id]
            from_s = life.clients.ended_at_s(entry)
            if life.keeps_s is None or life.now_s - from_s < life.keeps_s:
                yield f"{entry.run_id} finished {life.now_s - from_s:.0f} s ago and is no longer kept"
            yield from _run(life, entry, event["data"]["run"])


def _run(life: World, entry: Registration, run: Any) -> Iterator[str]:
    who, state = f"run {entry.run_id} ({entry.number})", life.sandbox.state
    theirs = life.theirs(entry)
    if theirs is None:
        yield f"{who}: the provider does not know {entry.provider_run_id}"
        return
    snapshot = state.snapshot(theirs)
    is_expired = entry.deadline_s is not None and not (entry.may_end and run["status"] != "expired")
    truth = RunStatus.EXPIRED if is_expired else snapshot.status
    if run["status"] != truth.value:
        yield f"{who} is {run['status']}, the provider says {truth.value}: {run['error']}"
    yield from _as_registered(entry, run)
    if truth is RunStatus.SUCCEEDED and entry.mark not in str(run["output"]):
        is_excused = run["output"] is None and entry.provider in FETCHES_OUTPUT and _was_trouble(life, theirs, snapshot)
        if not is_excused:
            yield f"{who} has the output {str(run['output'])[:200]}, not {entry.mark}"
    for name, after_s in (("created_at", 0.0), ("finished_at", snapshot.finished_after_s)):
        if truth.is_our_verdict or run[name] is None:
            continue
        said, known = datetime.fromisoformat(run[name]), theirs.instant(after_s)
        if known is None or abs((said - known).total_seconds()) > 1:
            yield f"{who}: {name} is {said}, the provider says {known}"


def _as_registered(entry: Registration, run: Any) -> Iterator[str]:
    wanted = {name: entry.body[name] for name in ("connection", "provider_run_id", "metadata", "tags")}
    shown = {name: run[name] for name in wanted}
    if shown != wanted:
        yield f"run {entry.run_id} was registered as {wanted} and is shown as {shown}"
    if "mark-" in str(run["output"]) and entry.mark not in str(run["output"]):
        yield f"run {entry.run_id} has the output of another run: {str(run['output'])[:200]}"


def _was_trouble(life: World, theirs: Any, snapshot: Any) -> bool:
    """Whether anything was wrong at about the time at which the run ended."""
    at_s = theirs.created_s + (snapshot.finished_after_s or 0.0)
    return at_s < life.calm_at_s


def _is_finish(event: Any) -> bool:
    return bool(event["type"] == "run.finished")


def read_at_s(life: World) -> dict[str, tuple[float, float]]:
    """Between which times each event was recorded, by what the feed showed."""
    feed = life.clients.feed
    return {event["id"]: at for event, at in zip(feed.events, feed.read_at_s, strict=True)}


# -- events


def _feed(life: World, events: list[Any]) -> Iterator[str]:
    """A client that follows the feed gets each event once, in the order in which it is shown later."""
    read = [event["id"] for event in life.clients.feed.events]
    if len(set(read)) != len(read):
        yield "the feed brought an event twice"
    shown = [event["id"] for event in events]
    kept = set(shown)
    if [event_id for event_id in read if event_id in kept] != shown:
        missing = [event_id for event_id in shown if event_id not in set(read)]
        yield f"the feed left out or changed the order of {missing or 'some events'}"
    if life.keeps_s is None and len(read) != len(shown):
        yield f"{len(read) - len(shown)} events are no longer there"
    bodies = {event["id"]: event for event in life.clients.feed.events}
    if any(bodies.get(event["id"]) != event for event in events):
        yield "an event has changed"


def _events(life: World, runs: dict[str, Any]) -> Iterator[str]:
    """Each run has the sequence 1 … n without a gap, one finish, the last, and a chain of statuses; all in time."""
    by_run: defaultdict[str, list[Any]] = defaultdict(list)
    for event in life.clients.feed.events:
        if event["data"]["run"]:
            by_run[event["data"]["run"]["id"]].append(event)
    order = [event["id"] for event in life.clients.feed.events]
    for entry in life.clients.registrations:
        if not entry.run_id:
            continue
        told = by_run[entry.run_id]
        yield from _story(entry, told)
        if entry.removed_after is not None:
            last = order.index(entry.removed_after) if entry.removed_after in order else len(order)
            yield from (f"{entry.run_id} was removed before {e['id']}" for e in told if order.index(e["id"]) > last)
            continue
        yield from _in_time(life, entry, told)
        if entry.run_id in runs and told and told[-1]["data"]["run"]["status"] != runs[entry.run_id]["status"]:
            yield f"{entry.run_id} is {runs[entry.run_id]['status']}, its last event says otherwise"


def _story(entry: Registration, told: list[Any]) -> Iterator[str]:
    who = f"run {entry.run_id} ({entry.number})"
    if [event["data"]["sequence"] for event in told] != list(range(1, len(told) + 1)):
        yield f"{who} has the sequence {[event['data']['sequence'] for event in told]}"
    types = [event["type"] for event in told]
    if "run.finished" in types[:-1] or (entry.removed_after is None and types[-1:] != ["run.finished"]):
        yield f"{who} has {types}"
    if types.count("run.started") > 1 or types.count("run.overdue") > 1:
        yield f"{who} has {types}"
    for event in told:
        yield from _as_registered(entry, event["data"]["run"])
        yield from _sense(who, event)
    statuses = {"run.started": "running", "run.waiting": "waiting", "run.resumed": "running"}
    for before, after in pairwise(told):
        was = after["data"]["previous_status"]
        seen = before["data"]["run"]["status"]
        is_same_look = before["data"]["run"]["observed_at"] == after["data"]["run"]["observed_at"]
        lost = [name for name in KNOWN if before["data"]["run"][name] and not after["data"]["run"][name]]
        if lost:
            yield f"{who}: {after['id']} no longer knows {lost}"
        if not is_same_look and seen != was and seen not in ("queued", was) and was in statuses.values():
            yield f"{who}: {after['id']} says that it was {was} before, the event before it says {seen}"


def _sense(who: str, event: Any) -> Iterator[str]:
    run, kind = event["data"]["run"], event["type"]
    wanted = {"run.started": ("running",), "run.resumed": ("running",), "run.waiting": ("waiting",)}.get(kind)
    if wanted and run["status"] not in wanted:
        yield f"{who}: {kind} with status {run['status']}"
    if kind == "run.finished" and not run["settled"]:
        yield f"{who}: {kind} and it is not settled"
    if event["data"]["previous_status"] == run["status"] and kind != "run.overdue":
        yield f"{who}: {kind} says that nothing changed"


def _in_time(life: World, entry: Registration, told: list[Any]) -> Iterator[str]:
    """In calm each change of a run is noticed in time, and no deadline passes before it does."""
    theirs = life.theirs(entry)
    if theirs is None or not told:
        return
    recorded, calm_s = read_at_s(life), life.calm_at_s
    snapshot = life.sandbox.state.snapshot(theirs)
    _, read_s = recorded[told[-1]["id"]]
    end_s = theirs.created_s + (snapshot.finished_after_s or 0.0)
    if entry.deadline_s is not None:
        end_s = entry.accepted_at_s + entry.deadline_s
        from_s = max(times_of(life, told[-1]["timestamp"]), default=end_s)
        if from_s < end_s - 20 - 100 * (life.was(entry.accepted_at_s - 60, entry.accepted_at_s, "network", "down")):
            yield f"{entry.run_id} expired {end_s - from_s:.0f} s before its deadline"
    due_s = max(end_s, calm_s + 300, entry.accepted_at_s) + NOTICED_S + 90  # the feed is read every 90 s
    if snapshot.status is not RunStatus.LOST and read_s > due_s:
        yield f"the end of {entry.run_id} was noticed {read_s - end_s:.0f} s late"


def _connections(life: World) -> Iterator[str]:
    """A connection fails and recovers in turn, and all of them have recovered; no endpoint is switched off by itself."""
    is_failing: defaultdict[str, bool] = defaultdict(bool)
    for event in life.clients.feed.events:
        if event["type"].startswith("connection."):
            name, fails = event["data"]["connection"]["name"], event["type"] == "connection.failing"
            if is_failing[name] is fails:
                yield f"{name}: {event['type']} was told twice in a row"
            is_failing[name] = fails
        if event["type"] == "endpoint.failing":
            yield f"in hours an endpoint cannot have failed for days: {event}"
        if event["type"] == "endpoint.disabled" and "over the API" not in event["data"]["endpoint"]["reason"]:
            yield f"an endpoint was switched off: {event}"
    recorded, calm_s = read_at_s(life), life.calm_at_s
    seen = {
        event["data"]["run"]["connection"]
        for event in life.clients.feed.events
        if _is_finish(event)
        and event["data"]["run"]["status"] not in ("expired", "lost")
        and recorded[event["id"]][0] > calm_s
    }  # with nothing to poll a connection cannot recover
    yield from (f"{name} is failing still" for name, fails in is_failing.items() if fails and name in seen)


def _triggers(life: World) -> Iterator[str]:
    """One key starts one run at the provider at the most, and one if the API said so."""
    started: defaultdict[str, int] = defaultdict(int)
    for run in life.sandbox.state.runs.values():
        if "key" in run.inputs:
            started[str(run.inputs["key"])] += 1
    for key, status in life.clients.triggered.items():
        if started[key] > 1 or (status == 201 and not started[key]):
            yield f"{key}: answered {status}, and {started[key]} runs were started"


def _intervals(life: World) -> Iterator[str]:
    """Between two polls of a run there is `min_interval`, unless a person asks for one."""
    shared = {entry.provider_run_id for entry in life.clients.registrations if entry.connection == TWIN}
    polls: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for at_s, seen in life.requests:
        if seen.method == "GET" and seen.run_id is not None and seen.run_id not in shared:
            polls[seen.provider, seen.path].append(at_s)
    for (_, path), times in polls.items():
        for first_s, again_s in pairwise(times):
            is_excused = life.was(first_s - 20, again_s, "network", name="providers") or life.was(
                first_s - 10, again_s, "down", "disk"
            )
            is_by_hand = any(
                asked_s <= again_s and first_s <= until_s + 1 for asked_s, until_s in life.clients.polled_s
            )
            if again_s - first_s < MIN_INTERVAL_S - 0.05 and not (is_excused or is_by_hand):
                yield f"{path} was polled again after {again_s - first_s:.2f} s"
