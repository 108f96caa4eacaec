"""What must be true, at the end of a life, of what the daemon says about itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from tests.simulation.world import RECEIVERS

if TYPE_CHECKING:
    from tests.simulation.world import World

TRIES: Final = 60  # counts may be some seconds old


async def find_faults(life: World, list_all: Callable[[World, str], Any]) -> list[str]:
    """Every count, health or sentence that is not as everything else, as a sentence; `list_all` reads a list to its end."""
    faults: list[str] = []
    for _ in range(TRIES):
        runs = [run async for run in list_all(life, "/v1/runs")]
        deliveries = [each async for each in list_all(life, "/v1/deliveries")]
        endpoints = [each async for each in list_all(life, "/v1/endpoints")]
        _, summary = await life.ask_until("GET", "/v1/summary")
        _, text = await life.ask_until("GET", "/metrics")
        faults = [*_counts(summary, text, runs, deliveries), *_endpoints(endpoints, deliveries)]  # "once" is not shared
        if life.has_nodes:  # the first that uses a connection that was silenced before finds it, in calm too
            faults += await _troubles(life, summary)
        if not faults:
            break
        await asyncio.sleep(10 * max(life.pace, 0.05))
    return faults if life.has_nodes else faults + await _troubles(life, summary)


async def _troubles(life: World, summary: Any) -> list[str]:
    _, connections = await life.ask_until("GET", "/v1/connections")
    status, readiness = await life.ask_again("GET", "/readyz")
    faults = [f"{each['name']} is not well: {each}" for each in connections["data"] if not _is_well(each)]
    faults += [f"{each}" for each in summary["attention"] if "used up their retries" not in each["sentence"]]
    return faults + ([f"/readyz: {status} {readiness}"] if status != 200 else [])


def _is_well(connection: Any) -> bool:
    return connection["health"] == "ok" and connection["reason"] is None and connection["last_error"] is None


def _counts(summary: Any, metrics: str, runs: list[Any], deliveries: list[Any]) -> Iterator[str]:
    by_connection: dict[str, Counter[str]] = {name: Counter() for name in summary["runs"]["by_connection"]}
    for run in runs:
        by_connection.setdefault(run["connection"], Counter())[run["status"]] += 1
    states = Counter(each["state"] for each in deliveries)
    for name, said, counted in (
        ("runs by status", summary["runs"]["by_status"], Counter(run["status"] for run in runs)),
        ("runs by connection", summary["runs"]["by_connection"], by_connection),
        ("deliveries by state", summary["deliveries"]["by_state"], states),
    ):
        if said != counted:
            yield f"the summary says of {name} {said}, there are {counted}"
    for state, count in states.items():
        if f'runbridge_kept_deliveries{{state="{state}"}} {count:.1f}' not in metrics:
            yield f"the metrics do not say that {count} deliveries are {state}"
    if summary["deliveries"]["oldest_due_at"] is not None:
        yield f"nothing waits, and since {summary['deliveries']['oldest_due_at']} something is due"


def _endpoints(endpoints: list[Any], deliveries: list[Any]) -> Iterator[str]:
    if len(endpoints) != len(RECEIVERS) - 1:
        yield f"there are the endpoints {[each['id'] for each in endpoints]}"
    pending = Counter(each["endpoint_id"] for each in deliveries if each["state"] == "pending")
    for each in endpoints:
        if each["stats"]["pending"] != pending[each["id"]]:
            yield f"{each['id']} says that {each['stats']['pending']} are pending, there are {pending[each['id']]}"
        if not each["enabled"] or each["failing_since"] or each["paused_until"]:
            yield f"{each['id']} is not well: {each}"
