"""The findings of `doctor` inside the daemon: each part of it, each connection and each endpoint by name."""

from __future__ import annotations

import asyncio
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from bridge.api.context import RequestContext
from bridge.api.ports import Bridge
from bridge.api.summary import CurrentTrouble, list_attention, read_trouble
from bridge.domain.connection import ConnectionHealth
from bridge.domain.delivery import DeliveryState, Outcome, remedy_for
from bridge.domain.endpoint import Endpoint
from bridge.domain.event import Event, EventType
from bridge.domain.finding import Finding
from bridge.domain.run import Run
from bridge.domain.timestamps import format_duration, format_instant
from bridge.store import encryption, nodes
from bridge.store.endpoint_stats import NO_STATS, EndpointStats, read_stats
from bridge.store.endpoints import list_endpoints
from bridge.store.events import list_newest
from bridge.store.filtering import Filters
from bridge.store.inspection import Size, measure_size
from bridge.store.nodes import Node
from bridge.store.run_lists import list_failing
from bridge.store.summary import Counts
from bridge.store.transaction import Tx

ENDPOINTS_MAX: Final = 500  # shown by name, those in trouble first
STATS_MAX: Final = 50  # endpoints whose last answer is read
FAILING_RUNS_MAX: Final = 100  # of each connection
UNREADABLE_MAX: Final = 20
FILTERED_MAX: Final = 20  # endpoints whose filter is tried, each on as many events
_Sentences = Mapping[tuple[str, str], list[tuple[bool, str]]]
"""By kind and id of a thing: what is wrong with it, and whether each is an error."""


@dataclass(frozen=True, slots=True)
class _Read:
    """The rows that one reading transaction finds."""

    trouble: CurrentTrouble
    endpoints: list[Endpoint]
    stats: Mapping[str, EndpointStats]
    nodes: list[Node]
    size: Size
    unreadable: list[str]
    failing: Mapping[str, list[Run]]
    """By connection, the runs whose last poll failed."""
    filtered: list[tuple[Endpoint, list[Event]]]
    """Endpoints with a filter that were sent nothing lately, and the newest events of their types."""


async def find_all(context: RequestContext) -> list[Finding]:
    """Every finding, in the order in which problems depend on each other; asks no provider."""
    found = await asyncio.to_thread(context.bridge.findings)
    counts, _ = await context.counts.read()
    names = sorted(context.bridge.connections)
    read = await context.database.read(lambda tx: _read(tx, names))
    now = context.clock.now()
    found.append(_database(read.size))
    found += _nodes(read.nodes, now, is_alone=context.database.is_sqlite)
    found.append(_secrets(read.unreadable))
    wrong = _sentences(context.bridge, read.trouble, counts, now)
    found += (each for name in names for each in _connection(context, name, read, wrong))
    found += _runs(context.bridge, read)
    closed = await asyncio.to_thread(lambda: dict(_closed_filters(read.filtered)))
    found += _endpoints(context.bridge, read, wrong, closed, now)
    if exhausted := counts.deliveries.get(("", DeliveryState.EXHAUSTED), 0):
        advice = "`runbridge deliveries list --state exhausted` shows them, `runbridge deliveries retry` sends them"
        found.append(Finding(None, "webhooks of single runs", f"{exhausted} used up their retries; {advice}"))
    return found


def _read(tx: Tx, connections: Sequence[str]) -> _Read:
    trouble = read_trouble(tx)
    shared = list_endpoints(tx, limit=ENDPOINTS_MAX)
    troubled = {each.id for each in trouble.endpoints}
    named = sorted(shared, key=lambda one: (one.id not in troubled, one.id))[:STATS_MAX]
    stats = read_stats(tx, [each.id for each in named])
    silent = [each for each in named if each.enabled and each.filter and not stats[each.id].last_answer]
    return _Read(
        trouble,
        shared,
        stats,
        nodes.list_nodes(tx),
        measure_size(tx),
        encryption.list_unreadable(tx, UNREADABLE_MAX),
        {name: list_failing(tx, name, limit=FAILING_RUNS_MAX) for name in connections},
        [(each, _newest_for(tx, each)) for each in silent[:FILTERED_MAX]],
    )


def _newest_for(tx: Tx, endpoint: Endpoint) -> list[Event]:
    return list_newest(tx, before=None, limit=FILTERED_MAX, types=[each for each in EventType if endpoint.wants(each)])


def _closed_filters(filtered: list[tuple[Endpoint, list[Event]]]) -> Iterator[tuple[str, int]]:
    """The endpoints whose filter accepts none of these events, with their number. May take some seconds of CPU."""
    for endpoint, events in filtered:
        filters = Filters()
        if events and endpoint.filter and not any(filters.accepts(endpoint.filter, event) for event in events):
            yield endpoint.id, len(events)


def _sentences(bridge: Bridge, trouble: CurrentTrouble, counts: Counts, now: datetime) -> _Sentences:
    found: dict[tuple[str, str], list[tuple[bool, str]]] = defaultdict(list)
    for kind in list_attention(bridge, trouble, counts, now):
        for each in kind:
            found[each.kind, each.id].append((each.severity == "error", each.sentence))
    return found


def _database(size: Size) -> Finding:
    log = f", {size.wal / 1e6:.1f} MB write-ahead log" if size.wal else ""
    return Finding(True, "database", f"{size.total / 1e6:.1f} MB, {size.free / 1e6:.1f} MB of it free{log}")


def _nodes(found: list[Node], now: datetime, *, is_alone: bool) -> Iterator[Finding]:
    for node in found:
        said = (
            f"{node.version} on {node.host}, pid {node.pid}, {node.runs} runs and {node.deliveries} deliveries in hand"
        )
        if not node.is_alive:
            advice = "another node takes over what it held; if it should run, look at its log"
            yield Finding(None, f"node {node.id}", f"{said}; its lease has run out: {advice}")
        else:
            running = format_duration(round((now - node.started_at).total_seconds()))
            yield Finding(True, f"node {node.id}", f"{said}, running for {running}")
    if not is_alone and len(versions := sorted({node.version for node in found if node.is_alive})) > 1:
        yield Finding(None, "nodes", f"different versions are running ({', '.join(versions)}); upgrade the rest")


def _secrets(unreadable: list[str]) -> Finding:
    if not unreadable:
        return Finding(True, "secrets", "every secret in the database can be opened")
    more = " and perhaps more" if len(unreadable) == UNREADABLE_MAX else ""
    return Finding(
        False,
        "secrets",
        f"no key opens {', '.join(unreadable)}{more}; add the key they were encrypted with to [secrets] old_keys or to "
        "secrets.key, or give these endpoints new ones (`runbridge endpoints rotate-secret ID`)",
    )


def _connection(context: RequestContext, name: str, read: _Read, wrong: _Sentences) -> Iterator[Finding]:
    what, row, error = f"connection {name}", read.trouble.health.get(name), context.bridge.last_error(name)
    said = wrong.get(("connection", name), [])
    yield from (Finding(False if is_error else None, what, sentence) for is_error, sentence in said)
    if row is not None and row.health is ConnectionHealth.FAILING:
        return
    if error is not None:
        yield Finding(
            None, what, f"{error.message} ({error.count} polls in a row, the last {format_instant(error.at)})"
        )
    elif row is None or row.health is ConnectionHealth.UNKNOWN:
        checked = context.bridge.last_check(name)
        check = f"`runbridge connections check {name}` finds out whether its key is taken"
        brought = f"{checked.detail} (checked {format_instant(checked.at)})" if checked else check
        yield Finding(checked.is_good if checked else None, what, f"no poll has been answered yet; {brought}")
    elif not said:
        yield Finding(True, what, f"it answers, since {format_instant(row.since)}")


def _runs(bridge: Bridge, read: _Read) -> Iterator[Finding]:
    """The runs whose last poll failed, those with the same trouble together; memory is fresher than the database.

    Those of a failing connection share its trouble. Messages quote the address, which holds the run's own id.
    """
    failing, groups = read.failing, defaultdict[tuple[str, str], list[tuple[int, str]]](list)
    down = {row.name for row in read.trouble.health.values() if row.health is ConnectionHealth.FAILING}
    for name in failing.keys() - down:
        for run in failing[name]:
            live = bridge.live(run)
            if (error := live.last_error if live else run.last_error) is not None:
                message = error.message.replace(run.provider_run_id, "{id}")
                groups[name, message].append((error.count, run.id))
    for (name, message), found in sorted(groups.items(), key=lambda group: -len(group[1])):
        least = "at least " if len(failing[name]) == FAILING_RUNS_MAX else ""
        count, worst = max(found)
        times = f"{count} times in a row at {worst}"
        yield Finding(None, f"runs of {name}", f"{least}{len(found)} could not be read: {message} ({times})")
    if not groups and not down:
        yield Finding(True, "runs", "the last poll of every watched run could be read")


def _endpoints(
    bridge: Bridge, read: _Read, wrong: _Sentences, closed: Mapping[str, int], now: datetime
) -> Iterator[Finding]:
    if not read.endpoints:
        yield Finding(
            None, "endpoints", "there is none; add one under [endpoints.NAME] or with `runbridge endpoints add`"
        )
    for endpoint in read.endpoints:
        what, stats = f"endpoint {endpoint.id}", read.stats.get(endpoint.id, NO_STATS)
        found = [(is_error, sentence) for is_error, sentence in wrong.get(("endpoint", endpoint.id), [])]
        if endpoint.fault is not None:
            found.append((True, endpoint.fault))
        if not found and stats.last_answer and stats.last_answer.outcome is Outcome.UNSIGNED:
            found.append((True, "nothing can be sent to it"))
        if errors := bridge.filter_errors(endpoint):
            test = "`runbridge endpoints test-filter` shows why"
            found.append(
                (True, f"its filter failed on {errors} events since the daemon started, which it did not get; {test}")
            )
        elif (events := closed.get(endpoint.id)) is not None:
            newest = f"the newest {events} events" if events > 1 else "the newest event"
            test = f"`runbridge endpoints test-filter {shlex.quote(endpoint.filter or '')}` shows them"
            found.append((False, f"its filter lets none of {newest} of its types through; {test}"))
        for is_error, sentence in found:
            yield Finding(
                False if is_error else None,
                what,
                sentence.removesuffix(".") + (_answer(stats, now, of=sentence) if is_error else ""),
            )
        if not found:
            wants = f"; it wants only {', '.join(sorted(endpoint.events))}" if endpoint.events is not None else ""
            answer = _answer(stats, now) if stats.last_answer else f"; nothing was sent to it in the last day{wants}"
            yield Finding(True, what, f"enabled, {stats.pending} deliveries pending{answer}")
    if len(read.endpoints) == ENDPOINTS_MAX:
        yield Finding(
            None, "endpoints", f"only the first {ENDPOINTS_MAX} are named here; `runbridge endpoints list` has all"
        )


def _answer(stats: EndpointStats, now: datetime, *, of: str | None = None) -> str:
    """The newest answer, as the end of a sentence; with what to do if it is the end `of` one about trouble."""
    if (last := stats.last_answer) is None:
        return ""
    age = format_duration(max(0, round((now - last.at).total_seconds())))
    said = f"{last.status} ({last.outcome.value})" if last.status else last.outcome.value
    if of and last.detail and last.detail.removesuffix(".") in of:
        return f"; last answer {age} ago: {said}"
    remedy = remedy_for(last.outcome, last.status) if of else None
    said += (f", {last.detail}" if last.detail else "") + (f": {remedy}" if remedy else "")
    return f"; last answer {age} ago: {said}"
