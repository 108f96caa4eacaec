"""What must be true at the end of a life, whatever happened in it.

The truth is what the simulated providers know, what the API promised to clients, and what the receivers logged. The
daemon is asked through its API.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge.sandbox.receiver import Received
    from tests.simulation.life import Life

PAGE = 200
EARLY_S = 0.5  # a Retry-After of whole seconds counts from the response; the receiver's clock began a little earlier


async def find_faults(life: Life) -> list[str]:
    """Every promise that was broken, as a sentence; none if all is well."""
    runs = {run["id"]: run async for run in _pages(life, "/v1/runs")}
    events = [event async for event in _pages(life, "/v1/events")]
    pending = [each async for each in _pages(life, "/v1/deliveries?state=pending")]
    faults = [
        *_runs(life, runs),
        *_events(events, runs),
        *_deliveries(life, events),
        *_order(life),
        *_pauses(life),
        *_secrets(life),
    ]
    faults += [f"delivery {each['id']} still waits: {each}" for each in pending]
    faults += [f"unhandled: {fault}" for fault in life.loop.faults if "never retrieved" not in str(fault)]
    return faults


async def _pages(life: Life, path: str) -> Any:
    after, mark = None, "&" if "?" in path else "?"
    while True:
        cursor = f"&cursor={after}" if after else ""
        status, page = await life.ask("GET", f"{path}{mark}limit={PAGE}{cursor}")
        if status != 200:
            raise AssertionError(f"GET {path}: {status} {page}")
        for each in page["data"]:
            yield each
        after = page.get("next_cursor")
        if not after or not page["data"]:
            return


def _runs(life: Life, runs: dict[str, Any]) -> Iterator[str]:
    """A run that was accepted is there, and has the outcome that the provider knows."""
    ids = [entry.run_id for entry in life.registrations if entry.run_id]
    if len(ids) != len(set(ids)):
        yield "two registrations of different runs have one id"
    for entry in life.registrations:
        if entry.run_id is None:
            yield f"a registration was never answered: {entry}"
            continue
        run = runs.get(entry.run_id)
        theirs = life.sandbox.state.get(entry.connection, entry.provider_run_id)
        if run is None:
            yield f"accepted and then lost: {entry}"
        elif theirs is None or (truth := life.sandbox.state.snapshot(theirs).status.value) != run["status"]:
            yield f"run {entry.run_id} is {run['status']}, the provider says {theirs and truth}: {run.get('error')}"


def _events(events: list[Any], runs: dict[str, Any]) -> Iterator[str]:
    """Each run has the sequence 1 … n without a gap, one finish, and it is the last."""
    by_run: defaultdict[str, list[Any]] = defaultdict(list)
    if len({event["id"] for event in events}) != len(events):
        yield "an event is in the feed twice"
    for event in events:
        if event["data"]["run"]:
            by_run[event["data"]["run"]["id"]].append(event)
    for run_id, run in runs.items():
        told = sorted(by_run[run_id], key=lambda event: int(event["data"]["sequence"]))
        if [event["data"]["sequence"] for event in told] != list(range(1, len(told) + 1)):
            yield f"run {run_id} has the sequence {[event['data']['sequence'] for event in told]}"
        finished = [event for event in told if event["type"] == "run.finished"]
        if run["settled"] and (len(finished) != 1 or told[-1] is not finished[0]):
            yield f"run {run_id} has {[event['type'] for event in told]}"
        if finished and finished[-1]["data"]["run"]["status"] != run["status"]:
            yield f"run {run_id} is {run['status']} and its finish says {finished[-1]['data']['run']['status']}"


def _wants(endpoint: str, event: Any) -> bool:
    return event["type"] == "run.finished" if endpoint == "finished" else event["type"] != "run.progressed"


def _deliveries(life: Life, events: list[Any]) -> Iterator[str]:
    """Every endpoint took every event that it wants, with the same bytes each time, and nothing that is not recorded."""
    known = {event["id"]: event for event in events}
    for name, receiver in life.receivers.items():
        posts: defaultdict[str, list[Received]] = defaultdict(list)
        for post in receiver.received:
            posts[post.id].append(post)
            if not post.verified:
                yield f"{name}: a signature that does not verify: {post.id}"
        for event_id, event in known.items():
            mine = posts[event_id]
            if _wants(name, event) and not any(post.status == 204 for post in mine):
                yield f"{name} never got {event['type']} {event_id} ({len(mine)} tries)"
            if not _wants(name, event) and mine:
                yield f"{name} got {event['type']}, which it does not want"
            if len({post.body for post in mine}) > 1:
                yield f"{name}: {event_id} came with different bytes"
        for event_id in posts.keys() - known.keys():
            yield f"{name} got {event_id}, which is not recorded"


def _order(life: Life) -> Iterator[str]:
    """Where order is asked for, an event of a run comes only after the one before it was taken."""
    taken: defaultdict[str, set[int]] = defaultdict(set)
    for post in life.receivers["orderly"].received:
        data: Any = post.event["data"]
        if data["run"] is None:
            continue
        run_id, sequence = data["run"]["id"], data["sequence"]
        missing = set(range(1, sequence)) - taken[run_id] - life.unwanted.get(run_id, set())
        if missing:
            yield f"orderly: {post.id} is number {sequence} of {run_id} and came before {sorted(missing)}"
        if post.status == 204:
            taken[run_id].add(sequence)


def _pauses(life: Life) -> Iterator[str]:
    """A delivery is not tried again before the receiver's Retry-After."""
    for name, receiver in life.receivers.items():
        until: dict[str, float] = {}
        for post, at_s in zip(receiver.received, life.arrived_at_s[name], strict=True):
            if at_s < until.get(post.id, 0.0) - EARLY_S:
                yield f"{name}: {post.id} came {until[post.id] - at_s:.1f} s before the end of its Retry-After"
            pause_s = {503: 40.0, 429: 25.0}.get(post.status or 0)
            if pause_s:
                until[post.id] = at_s + pause_s


def _secrets(life: Life) -> Iterator[str]:
    for line in life.log:
        text = str(line)
        if any(secret in text for secret in life.secrets):
            yield f"a secret in the log: {line.get('event')}"
