"""No statement of a working day reads a whole table or a whole index: the plans of both engines are read.

The statements are those that the store really sends, caught on their way to the driver while its functions are
called, so that the test follows the code. SQLite plans by the schema alone. PostgreSQL goes by the size of its tables
too; our connections shun the ways that pay for a thousand rows, so that it takes them only where no index serves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from bridge.domain.delivery import DeliveryState, Outcome, PostResult
from bridge.domain.endpoint import Endpoint, EndpointSource
from bridge.domain.ids import new_id
from bridge.domain.leased_delivery import DeliveryOffer
from bridge.domain.run import Run
from bridge.domain.secret import Secret
from bridge.domain.signing.hmac_v1 import new_secret
from bridge.domain.transition import observe
from bridge.store import (
    attempts,
    deliveries,
    endpoint_health,
    endpoint_stats,
    endpoints,
    events,
    idempotency,
    nodes,
    ordering,
    replays,
    retention,
    run_leases,
    run_lists,
    runs,
)
from bridge.store.attempts import AttemptResult
from bridge.store.database import Database
from bridge.store.deliveries import DeliveryFilter, LeasedDelivery, due_endpoints
from bridge.store.run_leases import PollRecord
from bridge.store.run_lists import RunFilter
from bridge.store.runs import RunChange
from bridge.store.transaction import Tx
from tests.support.manual_clock import ManualClock
from tests.support.watching import NODE, add_endpoint, in_parts, new_run, only, open_database, seen

START = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)
LATER = START + timedelta(days=1)
CONNECTION = "dify-prod"
RUNS = 1_000
GROWING = {
    "runs",
    "run_metadata",
    "run_tags",
    "transitions",
    "events",
    "endpoints",
    "deliveries",
    "attempts",
    "idempotency_keys",
}
"""The tables that grow with use."""
COARSE_INDEXES = {"ix_deliveries_state"}
"""Good for a list in order of age; what looks for one thing by it reads all that is owed to anybody."""
ALIASES = {"d": "deliveries", "p": "endpoints", "earlier": "deliveries"}
SMALL_INDEXES = {
    "ix_deliveries_replayed",
    "ix_endpoints_removed",
    "ix_endpoints_shared",
    "ix_replays_running",
    "ix_runs_leased",
    "nodes_pkey",
}
"""Partial ones, as small as what is under way: to read one whole is to read only what is wanted."""

SORTING_LITTLE = {
    "runs by the provider's id",
    "runs by the beginning of the provider's id",
    "runs by status",
    "runs by status, connection, tag and metadata",
    "runs by two keys of metadata and status",
    "statistics of endpoints",
    "one delivery with its attempts",
    "feed of a run",
    "newest events of a run",
    "deliveries of a run",
    "deliveries of an event",
}
"""Read for people: they sort what one run, event or delivery has, what the nodes lease, or a fixed number of rows."""

SORTING_WHAT_THEY_WRITE = {"switch an endpoint off", "switch an endpoint on", "ask for order"}
"""They lock all that is pending at one endpoint in the order of ids, and change it."""


@dataclass(frozen=True)
class World:
    """A filled database, and things in it to ask about."""

    watched: Run
    settled: Run
    shared: Endpoint
    ordered: Endpoint
    claimed: LeasedDelivery
    event_id: str


Work = Callable[[Tx, World], object]


def poll_record(run: Run) -> PollRecord:
    return PollRecord(run.id, 1, START, LATER, 0, 0, None)


def delivered(one: LeasedDelivery) -> AttemptResult:
    return AttemptResult(one.delivery, START, PostResult(Outcome.DELIVERED, 5, 204), DeliveryState.DELIVERED, None)


def finish(tx: Tx, run: Run, offer: DeliveryOffer | None = None) -> Run | None:
    decision = observe(run, seen("succeeded"), now=tx.now, wants_progress=False)
    assert decision is not None
    return runs.record_decisions(tx, [RunChange(run, decision)], node=None, keep_lease=False, offer=offer)[0]


def sweep(tx: Tx, _world: World) -> None:
    for plan in (retention.plan_settled, retention.plan_leftovers):
        retention.delete_planned(tx, plan(tx, LATER))


WORK: dict[str, Work] = {
    "register": lambda tx, w: (
        runs.find_watched(tx, CONNECTION, [w.watched.provider_run_id]),
        runs.insert_runs(tx, [new_run("new", tags=("x",))]),
    ),
    "claim runs": lambda tx, w: run_leases.acquire_due(tx, node=NODE, connection=CONNECTION, until=tx.now, limit=100),
    "claim runs, shared": lambda tx, w: run_leases.acquire_due(
        tx, node=NODE, connection=CONNECTION, until=tx.now, limit=100, sharers=2
    ),
    "next due run": lambda tx, w: run_leases.next_due_at(tx, CONNECTION),
    "held runs": lambda tx, w: run_leases.list_leased(tx, node=NODE, connection=CONNECTION),
    "let runs go": lambda tx, w: run_leases.release(tx, node=NODE, run_ids=[w.watched.id]),
    "put runs back": lambda tx, w: run_leases.save_polls(tx, node=NODE, records=[poll_record(w.watched)]),
    "poll now": lambda tx, w: run_leases.request_poll(tx, w.watched.id),
    "record a transition": lambda tx, w: finish(tx, w.watched),
    "record a transition, lease what it brings": lambda tx, w: finish(tx, w.watched, DeliveryOffer(NODE, lambda _: 8)),
    "secrets that sign": lambda tx, w: endpoints.signing_secrets(tx, [w.shared, w.ordered]),
    "make due what a wrong clock wrote": lambda tx, w: run_leases.clamp_due(tx, CONNECTION, LATER),
    "expire": lambda tx, w: runs.list_expired(tx, tx.now, 100),
    "due endpoints": lambda tx, w: due_endpoints(tx),
    "claim deliveries": lambda tx, w: deliveries.acquire_due(tx, node=NODE, endpoint_id=w.shared.id, limit=8),
    "held deliveries": lambda tx, w: deliveries.list_leased(tx, node=NODE),
    "give deliveries back": lambda tx, w: deliveries.release(tx, node=NODE, delivery_ids=[w.claimed.delivery.id]),
    "record an attempt": lambda tx, w: attempts.record_attempts(tx, node=NODE, results=[delivered(w.claimed)]),
    "release the next of a run": lambda tx, w: ordering.release_next(tx, w.ordered.id, w.settled.id),
    "note an answer": lambda tx, w: endpoint_health.apply_result(
        tx, w.shared.id, PostResult(Outcome.SERVER_ERROR, 5, 500)
    ),
    "retry": lambda tx, w: deliveries.retry_now(tx, [w.claimed.delivery.id]),
    "switch an endpoint off": lambda tx, w: endpoints.disable_endpoint(tx, w.ordered.id, "asked for"),
    "switch an endpoint on": lambda tx, w: endpoints.enable_endpoint(tx, w.ordered.id),
    "ask for order": lambda tx, w: ordering.hold_followers(tx, w.ordered.id),
    "remove an endpoint": lambda tx, w: endpoints.remove_endpoint(tx, w.shared.id),
    "listeners": lambda tx, w: endpoints.listening_endpoints(tx, w.watched.id),
    "sync the file's endpoints": lambda tx, w: endpoints.sync_file_endpoints(tx, [], node=NODE),
    "statistics of endpoints": lambda tx, w: endpoint_stats.read_stats(tx, [w.shared.id, w.ordered.id]),
    "open replays": lambda tx, w: (replays.list_running(tx), replays.count_waiting(tx, w.shared.id)),
    "sweep": sweep,
    "evict": lambda tx, w: nodes.evict_dead(tx),
    "join and leave": lambda tx, w: (
        nodes.join(tx, node="node_3", host="here", pid=3, version="0"),
        nodes.leave(tx, "node_3"),
    ),
    "one run with all of it": lambda tx, w: (
        runs.get_run(tx, w.settled.id),
        runs.list_transitions(tx, w.settled.id),
        events.list_run_events(tx, w.settled.id),
        endpoints.list_run_endpoints(tx, [w.settled.id]),
        events.finished_events(tx, [w.settled.id]),
    ),
    "forget a run": lambda tx, w: runs.delete_run(tx, w.settled.id),
    "one delivery with its attempts": lambda tx, w: (
        deliveries.get_delivery(tx, w.claimed.delivery.id),
        attempts.list_attempts(tx, [w.claimed.delivery.id]),
    ),
    "one event and who gets it": lambda tx, w: (
        events.get_event(tx, w.event_id),
        replays.deliveries_by_endpoint(tx, w.event_id),
        events.last_position(tx),
    ),
    "feed": lambda tx, w: events.list_feed(tx, after=500, limit=100),
    "feed of a run": lambda tx, w: events.list_feed(tx, after=0, limit=100, run_id=w.settled.id),
    "newest events": lambda tx, w: events.list_newest(tx, before=500, limit=100),
    "events of rare types": lambda tx, w: (
        events.list_newest(tx, before=None, limit=100, types=["run.overdue", "bridge.ping"]),
        events.list_feed(tx, after=1, limit=100, types=["run.overdue", "bridge.ping"]),
    ),
    "newest events of a run": lambda tx, w: events.list_newest(tx, before=None, limit=100, run_id=w.settled.id),
    "runs behind a cursor": lambda tx, w: run_lists.list_runs(tx, RunFilter(), limit=50, before=w.settled.id),
    "runs by status": lambda tx, w: run_lists.list_runs(
        tx, RunFilter(statuses=["succeeded", "running", "failed"]), limit=50, before=w.settled.id
    ),
    "runs by status, connection, tag and metadata": lambda tx, w: run_lists.list_runs(
        tx,
        RunFilter(statuses=["failed"], connection=CONNECTION, tag="team_1", metadata={"order": "7"}),
        limit=50,
        before=w.settled.id,
    ),
    "runs by time": lambda tx, w: run_lists.list_runs(tx, RunFilter(since=START, until=LATER), limit=50, before=None),
    "runs by connection": lambda tx, w: run_lists.list_runs(
        tx, RunFilter(connection=CONNECTION), limit=50, before=None
    ),
    "runs by workflow": lambda tx, w: run_lists.list_runs(tx, RunFilter(workflow_id="wf_1"), limit=50, before=None),
    "runs by metadata": lambda tx, w: run_lists.list_runs(
        tx, RunFilter(metadata={"order": "7"}), limit=50, before=w.settled.id
    ),
    "runs by two keys of metadata and status": lambda tx, w: run_lists.list_runs(
        tx, RunFilter(metadata={"tenant": "3", "order": "7"}, statuses=["running", "failed"]), limit=50, before=None
    ),
    "runs by the provider's id": lambda tx, w: run_lists.list_runs(
        tx, RunFilter(provider_run_id=w.settled.provider_run_id), limit=50, before=None
    ),
    "runs by the beginning of the provider's id": lambda tx, w: run_lists.list_runs(
        tx, RunFilter(id_prefix="r99"), limit=50, before=w.settled.id
    ),
    "runs by the beginning of our id": lambda tx, w: run_lists.list_runs(
        tx, RunFilter(id_prefix=w.settled.id[:20]), limit=50, before=w.settled.id
    ),
    "failing runs": lambda tx, w: run_lists.list_failing(tx, CONNECTION, limit=100),
    "runs by tag": lambda tx, w: run_lists.list_runs(tx, RunFilter(tag="team_1"), limit=50, before=w.settled.id),
    "deliveries behind a cursor": lambda tx, w: deliveries.list_deliveries(
        tx, DeliveryFilter(), limit=50, before=w.claimed.delivery.id
    ),
    "deliveries of an endpoint": lambda tx, w: deliveries.list_deliveries(
        tx, DeliveryFilter(endpoint_id=w.shared.id), limit=50, before=w.claimed.delivery.id
    ),
    "deliveries by state": lambda tx, w: deliveries.list_deliveries(
        tx, DeliveryFilter(state="failed"), limit=50, before=None
    ),
    "deliveries by state of an endpoint": lambda tx, w: deliveries.list_deliveries(
        tx, DeliveryFilter(state="exhausted", endpoint_id=w.shared.id), limit=50, before=w.claimed.delivery.id
    ),
    "deliveries by time": lambda tx, w: deliveries.list_deliveries(
        tx, DeliveryFilter(since=START, until=LATER), limit=50, before=None
    ),
    "deliveries of a run": lambda tx, w: deliveries.list_deliveries(
        tx, DeliveryFilter(run_id=w.settled.id), limit=50, before=None
    ),
    "deliveries of an event": lambda tx, w: deliveries.list_deliveries(
        tx, DeliveryFilter(event_id=w.event_id), limit=50, before=None
    ),
    "an answer kept by its key": lambda tx, w: idempotency.find_responses(tx, ["key"]),
}


@contextmanager
def caught() -> Iterator[list[tuple[str, Any]]]:
    """Collect the statements that go to a driver inside the block, with the parameters of one row each."""
    found: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, given: Any, _context: object, many: bool) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "WITH", "UPDATE", "DELETE")):
            found.append((statement, given[0] if many else given))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


async def fill(database: Database, clock: ManualClock) -> World:
    """Runs of which every other is settled, one in five with a webhook of its own; events, deliveries, attempts."""
    shared = await add_endpoint(database)
    ordered = await add_endpoint(database, ordered=True, events=only("run.started"))
    new = [
        new_run(
            f"r{n}",
            connection=CONNECTION if n % 10 < 2 else f"other-{n % 10}",
            tags=(f"team_{n % 5}",),
            workflow_id=f"wf_{n % 7}",
            metadata={"order": n, "tenant": n % 4},
        )
        for n in range(RUNS)
    ]
    made: list[Run] = []
    for part in in_parts(new):
        made += await database.write(lambda tx, part=part: runs.insert_runs(tx, part))
    hooks = [
        (
            Endpoint(id=new_id("ep"), url="https://app.example.org/one", source=EndpointSource.RUN, run_id=run.id),
            Secret(new_secret()),
        )
        for run in made[::5]
    ]
    await database.write(lambda tx: endpoints.insert_run_endpoints(tx, hooks))
    clock.advance(60)
    for status in ("running", "succeeded"):
        after: list[Run] = []
        for part in in_parts(made[::2]):
            after += await database.write(lambda tx, part=part, status=status: observe_all(tx, part, status))
        made[::2] = after
    claimed = [await database.write(lambda tx, e=e: claim(tx, e)) for e in (shared, ordered)]
    results = [delivered(one) for part in claimed for one in part[1:]]  # the first of each stays owed
    for some in in_parts(results):
        await database.write(lambda tx, some=some: attempts.record_attempts(tx, node=NODE, results=some))
    first = claimed[0][0]
    return World(made[1], made[0], shared, ordered, first, first.delivery.event_id)


def claim(tx: Tx, endpoint: Endpoint) -> list[LeasedDelivery]:
    return deliveries.acquire_due(tx, node=NODE, endpoint_id=endpoint.id, limit=RUNS * 3 // 4)


def observe_all(tx: Tx, watched: Sequence[Run], status: str) -> list[Run]:
    changes = []
    for run in watched:
        decision = observe(run, seen(status), now=tx.now, wants_progress=False)
        assert decision is not None
        changes.append(RunChange(run, decision))
    return [run for run in runs.record_decisions(tx, changes, node=None, keep_lease=False) if run is not None]


def plans(tx: Tx, name: str, world: World) -> list[tuple[str, list[str]]]:
    """Each statement of a piece of work, undone afterwards, with what is wrong with its plan."""
    savepoint = tx.connection.begin_nested()
    with caught() as statements:
        WORK[name](replace(tx, driver=None), world)  # all of them by way of SQLAlchemy, which tells of each
    savepoint.rollback()
    explain, may_sort = (
        explain_on_postgresql if tx.is_postgresql else explain_on_sqlite,
        name in SORTING_LITTLE | SORTING_WHAT_THEY_WRITE,
    )
    return [(statement, explain(tx, statement, given, may_sort=may_sort)) for statement, given in statements]


def explain_on_sqlite(tx: Tx, statement: str, given: Any, *, may_sort: bool) -> list[str]:
    """Rows of a plan are (id, id of the row above, 0, what is done)."""
    plan = [tuple(row) for row in tx.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given)]
    once_a_row = {row[0] for row in plan if "CORRELATED" in row[3]}
    return [
        row[3]
        for row in plan
        if reads_too_much(row[3].split(), once_a_row=row[1] in once_a_row) or ("B-TREE" in row[3] and not may_sort)
    ]


def reads_too_much(words: list[str], *, once_a_row: bool) -> bool:
    """Whether a line of a SQLite plan walks a whole table or index, or makes its own index, or looks up by a poor one."""
    is_walk = words[0] == "SCAN" and ALIASES.get(words[1], words[1]) in GROWING and words[-1] not in SMALL_INDEXES
    return is_walk or "AUTOMATIC" in words or (once_a_row and bool(COARSE_INDEXES.intersection(words)))


def explain_on_postgresql(tx: Tx, statement: str, given: Any, *, may_sort: bool) -> list[str]:
    tx.connection.exec_driver_sql("SET LOCAL enable_bitmapscan = off")
    for cost in ("seq_page_cost", "random_page_cost"):  # rows decide, not how many of them share a page today
        tx.connection.exec_driver_sql(f"SET LOCAL {cost} = 0")
    (plan,) = tx.connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", given).scalar_one()
    return [
        f"{node['Node Type']} {node.get('Relation Name', '')} {node.get('Index Name', '')}: {node.get('Filter', '')}"
        for node in (*whole_reads(plan["Plan"], is_cut_short=False), *([] if may_sort else sorts(plan["Plan"])))
    ]


def sorts(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The steps that sort."""
    if "Sort" in node["Node Type"]:
        yield node
    for part in node.get("Plans", ()):
        yield from sorts(part)


def whole_reads(node: dict[str, Any], *, is_cut_short: bool) -> Iterator[dict[str, Any]]:
    """The steps that read a table or an index from end to end; `is_cut_short`: a LIMIT stands over this one."""
    if node["Node Type"] == "Seq Scan" and node["Relation Name"] in GROWING:
        yield node
    is_by_index = node["Node Type"] in {"Index Scan", "Index Only Scan", "Bitmap Index Scan"}
    is_walk = is_by_index and "Index Cond" not in node and node["Index Name"] not in SMALL_INDEXES
    if is_walk and ("Filter" in node or not is_cut_short):
        yield node
    for part in node.get("Plans", ()):
        yield from whole_reads(part, is_cut_short=node["Node Type"] == "Limit")


@pytest.mark.slow
async def test_no_statement_of_a_working_day_reads_a_whole_table_or_sorts_one(database_url: str) -> None:
    clock = ManualClock(START)
    async with open_database(database_url, clock) as database:
        world = await fill(database, clock)
        if not database.is_sqlite:
            await database.write(lambda tx: tx.connection.exec_driver_sql("ANALYZE"))
        wrong = {
            name: found
            for name in WORK
            if (found := [each for each in await database.write(lambda tx, n=name: plans(tx, n, world)) if each[1]])
        }
    assert not wrong, json.dumps(wrong, indent=1)
