"""The promises about the database, checked when the daemon has stopped."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from tests.simulation.delivery_checker import seconds_of

if TYPE_CHECKING:
    from tests.simulation.world import Arrival, World

_US: Final = 1_000_000
POST_S: Final = 20.0
STARTING_S: Final = 10.0  # a receiver that has never answered is tried again so soon
JITTER: Final = 0.2
SAID_EMPTY: Final = (
    ("leases of runs", "SELECT id FROM runs WHERE leased_by IS NOT NULL"),
    ("leases of deliveries", "SELECT id FROM deliveries WHERE leased_by IS NOT NULL"),
    ("nodes", "SELECT id FROM nodes"),
    ("runs that go on without being due", "SELECT id FROM runs WHERE next_poll_at IS NULL AND status IN ('queued', 'running', 'waiting', 'unknown')"),
    ("settled runs that are due", "SELECT id FROM runs WHERE next_poll_at IS NOT NULL AND status NOT IN ('queued', 'running', 'waiting', 'unknown')"),
    ("settled deliveries that are due", "SELECT id FROM deliveries WHERE next_attempt_at IS NOT NULL AND state <> 'pending'"),
    ("delivered deliveries without such an attempt", "SELECT id FROM deliveries d WHERE state = 'delivered' AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.delivery_id = d.id AND a.outcome = 'delivered')"),
    ("deliveries of no event", "SELECT id FROM deliveries WHERE event_id NOT IN (SELECT id FROM events)"),
    ("attempts of no delivery", "SELECT id FROM attempts WHERE delivery_id NOT IN (SELECT id FROM deliveries)"),
    ("attempts that are not counted", "SELECT d.id FROM deliveries d LEFT JOIN attempts a ON a.delivery_id = d.id GROUP BY d.id HAVING count(a.id) <> d.attempts OR max(a.number) <> d.attempts"),
    ("transitions of no run", "SELECT run_id FROM transitions WHERE run_id NOT IN (SELECT id FROM runs)"),
    ("sequences that do not match", "SELECT r.id FROM runs r LEFT JOIN events e ON e.run_id = r.id GROUP BY r.id HAVING coalesce(max(e.sequence), 0) <> r.sequence"),
    ("tags of no run", "SELECT run_id FROM run_tags WHERE run_id NOT IN (SELECT id FROM runs)"),
    ("metadata of no run", "SELECT run_id FROM run_metadata WHERE run_id NOT IN (SELECT id FROM runs)"),
    ("secrets of no endpoint", "SELECT id FROM endpoint_secrets WHERE endpoint_id NOT IN (SELECT id FROM endpoints)"),
    ("deliveries that were discarded, of an endpoint that is there", "SELECT id FROM deliveries WHERE state = 'discarded' AND endpoint_id IN (SELECT id FROM endpoints WHERE deleted_at IS NULL)"),
    ("replays that sent more than was counted", "SELECT id FROM replays WHERE replayed > count"),
    ("replays that did not end", "SELECT id FROM replays WHERE state = 'running'"),
)  # fmt: skip


def find_faults(life: World) -> list[str]:
    """Every promise that the file breaks, as a sentence."""
    with sqlite3.connect(f"file:{life.database_file}?mode=ro", uri=True) as connection:
        connection.row_factory = sqlite3.Row
        faults = [
            f"the file is damaged: {row[0]}" for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"
        ]
        for name, query in SAID_EMPTY:
            faults += [f"{name}: {row[0]}" for row in connection.execute(query)][:3]
        faults += [*_transitions(connection), *_attempts(life, connection), *_posts(life, connection), *_secrets(life)]
    connection.close()
    return faults


def _transitions(connection: sqlite3.Connection) -> Iterator[str]:
    """The changes of status of a run are a chain from queued to what it is."""
    chains: defaultdict[str, list[Any]] = defaultdict(list)
    for row in connection.execute("SELECT * FROM transitions ORDER BY run_id, id"):
        chains[row["run_id"]].append(row)
    for run in connection.execute("SELECT id, status FROM runs"):
        status = "queued"
        for row in chains[run["id"]]:
            if row["from_status"] != status or row["to_status"] == status:
                yield f"{run['id']} went from {row['from_status']} to {row['to_status']}, and was {status}"
            status = row["to_status"]
        if status != run["status"]:
            yield f"{run['id']} is {run['status']}, its last transition says {status}"


def _secrets(life: World) -> Iterator[str]:
    for path in sorted(life.database_file.parent.glob("runbridge.db*")):
        content = path.read_bytes()
        yield from (f"a secret in {path.name}" for secret in life.secrets if secret.encode() in content)


# -- attempts


def _attempts(life: World, connection: sqlite3.Connection) -> Iterator[str]:
    """Attempts say what the receiver answered, and are as far from each other as the schedule says."""
    arrived: defaultdict[tuple[str, str], list[Arrival]] = defaultdict(list)
    names = {endpoint: name for name, endpoint in life.clients.endpoint_ids.items()}
    for name, arrivals in life.arrivals.items():
        for it in arrivals:
            arrived[name, it.post.id].append(it)
    attempts: defaultdict[str, list[Any]] = defaultdict(list)
    for row in connection.execute("SELECT * FROM attempts ORDER BY delivery_id, number"):
        attempts[row["delivery_id"]].append(row)
    for delivery in connection.execute("SELECT * FROM deliveries"):
        mine = attempts[delivery["id"]]
        name = names.get(delivery["endpoint_id"], delivery["endpoint_id"])
        posts = [_arrival(life, row, arrived[name, delivery["event_id"]]) for row in mine]
        for row, post in zip(mine, posts, strict=True):
            if post is not None and row["status"] is not None and row["status"] != post.post.status:
                yield f"{delivery['id']}: {name} answered {post.post.status}, recorded is {row['status']}"
            if name in life.receivers and post is None and row["status"] is not None:
                yield f"{delivery['id']}: an attempt is recorded that {name} never got: {tuple(row)}"
        if not any(row["is_manual"] for row in mine) and not delivery["is_manual"]:
            yield from _spacing(life, delivery["id"], mine, may_be_early=name == "switched")
            failures = sum(_uses_up(row) for row in mine)
            if (delivery["state"] == "exhausted") is not (failures > len(life.retry_schedule)):
                yield f"{delivery['id']} is {delivery['state']} after {failures} failed attempts"
            if delivery["failures"] != failures:
                yield f"{delivery['id']} counts {delivery['failures']} failures, there were {failures}"


def _posts(life: World, connection: sqlite3.Connection) -> Iterator[str]:
    """Each webhook that arrived is recorded as an attempt, unless its answer or the record may have been lost."""
    names = {endpoint: name for name, endpoint in life.clients.endpoint_ids.items()}
    query = "SELECT endpoint_id, event_id, sum(attempts) AS attempts FROM deliveries GROUP BY endpoint_id, event_id"
    recorded = {
        (names.get(row["endpoint_id"], row["endpoint_id"]), row["event_id"]): row["attempts"]
        for row in connection.execute(query)
    }
    arrived: defaultdict[tuple[str, str], int] = defaultdict(int)
    for name, arrivals in life.arrivals.items():
        for it in arrivals:
            is_excused = life.was(it.at_s - 3, it.at_s + POST_S, "network", name=name) or life.was(
                it.at_s, it.at_s + 2 * POST_S, "down", "disk"
            )
            arrived[name, it.post.id] += not is_excused
    for key, count in arrived.items():
        if key in recorded and count > recorded[key]:
            yield f"{key[0]} got {key[1]} {count} times, and {recorded[key]} attempts are recorded"


def _arrival(life: World, attempt: Any, arrivals: list[Arrival]) -> Arrival | None:
    """The webhook of this attempt, if it arrived: its signature has the machine's time, its record the daemon's."""
    times = life.clock.times_of(attempt["at"] / _US)
    near = [it for it in arrivals if any(at_s - 0.01 <= it.at_s <= at_s + POST_S for at_s in times)]
    said = [it for it in near if it.post.status == attempt["status"]]
    return (said or near or [None])[0]  # type: ignore[list-item]


def _uses_up(row: Any) -> bool:
    """Whether an attempt uses up a step of the schedule: not where a receiver that never answered is tried again soon."""
    if row["next_attempt_at"] is None or row["outcome"] not in ("connect", "dns"):
        return bool(row["outcome"] != "delivered")
    planned_s = (row["next_attempt_at"] - row["at"]) / _US
    return row["number"] == 1 or not STARTING_S - 1 < planned_s < STARTING_S + 2


def _spacing(life: World, delivery_id: str, attempts: list[Any], *, may_be_early: bool) -> Iterator[str]:
    """`may_be_early`: the endpoint is switched off and on, which makes due what waits for it."""
    failures = 0
    for row, after in zip(attempts, [*attempts[1:], None], strict=True):
        if row["outcome"] == "delivered" or row["next_attempt_at"] is None:
            continue
        at = row["at"] / _US
        planned_s = row["next_attempt_at"] / _US - at
        known = life.clock.times_of(at)
        jumps = [s for s, _ in life.clock.settings[1:]]
        is_even = len(known) == 1 and not any(known[0] - 5 < s < known[0] + POST_S + 90 for s in jumps)
        failures += _uses_up(row)
        if not _uses_up(row) or not is_even:
            continue
        delay_s = _schedule_s(life, failures)
        pause_s = {429: 25.0, 503: 40.0}.get(row["status"] or 0, 0.0)
        took_s = row["duration_ms"] / 1000
        is_slow = life.was(known[0], known[0] + POST_S, "disk", *(("down",) if life.has_nodes else ()))
        if planned_s < max(delay_s * (1 - JITTER), pause_s - 1):
            yield f"{delivery_id}: retry {failures} was planned after {planned_s:.1f} s, not {delay_s:.0f} s"
        if planned_s > max(delay_s * (1 + JITTER), pause_s) + took_s + 1.5 and not is_slow:
            yield f"{delivery_id}: retry {failures} was planned after {planned_s:.1f} s, not {delay_s:.0f} s"
        if after is not None and not may_be_early:
            begun = life.clock.times_of(after["at"] / _US)
            if len(begun) == 1 and begun[0] < known[0] + planned_s - 0.5:
                yield f"{delivery_id}: retry {failures} came after {begun[0] - known[0]:.1f} s, planned was {planned_s:.1f} s"


def _schedule_s(life: World, failures: int) -> float:
    schedule = life.retry_schedule
    if failures > len(schedule):
        return float("inf")
    return seconds_of(schedule[failures - 1])
