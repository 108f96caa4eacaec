"""Runs: register, list, show, wait, poll, cancel, stop watching."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from bridge.api.context import Call, Door, Response, answer
from bridge.api.problem import problem_of
from bridge.api.register import Registered, Registration, register
from bridge.api.request_models import BatchBody, Checks, NoBody, NoQuery, RunBody, RunsQuery, TriggerBody, WaitQuery
from bridge.api.serializers import read_cursor, shown_event, shown_page, shown_run, shown_transition
from bridge.api.validation_errors import read_given
from bridge.domain.errors import Conflict, InvalidInput, NotFound, Problem, StoreUnavailable
from bridge.domain.run import Json, Run
from bridge.store import endpoints, events, run_leases, runs
from bridge.store.transaction import Tx

RECHECK_S = 2.0  # hints come from this process only; another node may have settled the run
NO_TRIGGER = Problem("trigger", "a batch only registers runs that exist; start one with POST /v1/runs")


async def register_run(door: Door, call: Call[RunBody]) -> Response:
    """Watch a run, or start one and watch it."""
    body = call.given
    connection = door.bridge.connections[body.connection]
    if body.trigger is None:
        registration = Registration(body, connection, str(body.provider_run_id))
        return await door.write_grouped(call, registration, _register_all)
    started, reference = await _trigger(door, body.connection, body.trigger)
    registration = Registration(body, connection, started, reference)
    try:
        return await door.write_grouped(call, registration, _register_all)
    except StoreUnavailable as error:
        raise StoreUnavailable(
            f"the run was started at the provider as {started!r} but could not be recorded; "
            f"register it with this provider_run_id instead of trigger ({error})"
        ) from error


async def _trigger(door: Door, connection: str, trigger: TriggerBody) -> tuple[str, str | None]:
    return await door.bridge.trigger(connection, trigger.workflow_id, trigger.inputs, dict(trigger.model_extra or {}))


def _register_all(door: Door, tx: Tx, wanted: list[Registration]) -> list[Response]:
    return [answer(201 if given.is_new else 200, _shown(door, given)) for given in register(tx, wanted)]


def _shown(door: Door, given: Registered) -> dict[str, Json]:
    shown = shown_run(given.run, None if given.is_new else door.bridge.live(given.run))
    if given.webhook is not None:
        secret = given.secret.reveal() if given.secret else None
        shown["webhook"] = {"id": given.webhook.id, "url": given.webhook.url, "secret": secret}
    return shown


async def register_batch(door: Door, call: Call[BatchBody]) -> Response:
    """Watch up to 1,000 runs in one transaction; each item has its own outcome."""
    checks = door.checks()
    judged = [_judge(checks, item) for item in call.given.runs]
    good = [one for one in judged if isinstance(one, Registration)]

    def work(tx: Tx) -> Response:
        done = iter(register(tx, good))
        return answer(200, {"data": [_item(door, one, done) for one in judged]})

    return await door.write(call, work)


def _judge(checks: Checks, item: Json) -> Registration | InvalidInput:
    try:
        body = read_given(RunBody, item, context=checks)
    except InvalidInput as error:
        return error
    if body.provider_run_id is None:
        return InvalidInput([NO_TRIGGER])
    return Registration(body, checks.connections[body.connection], body.provider_run_id)


def _item(door: Door, one: Registration | InvalidInput, done: Iterator[Registered]) -> Json:
    if isinstance(one, InvalidInput):
        return {"status": 422, "error": problem_of(one)}
    given = next(done)
    return {"status": 201 if given.is_new else 200, "run": _shown(door, given)}


async def list_runs(door: Door, call: Call[RunsQuery]) -> Response:
    """Newest first."""
    query = call.given
    wanted = runs.RunFilter(query.connection, query.status and query.status.value, query.tag, query.workflow_id)
    before = read_cursor(query.cursor)
    found = await door.database.read(lambda tx: runs.list_runs(tx, wanted, limit=query.limit + 1, before=before))
    return answer(200, shown_page([shown_run(run, door.bridge.live(run)) for run in found], query.limit))


async def show_run(door: Door, call: Call[NoQuery]) -> Response:
    """One run with its transitions and events."""

    def work(tx: Tx) -> dict[str, Json]:
        run = _present(tx, call.id())
        return {
            **shown_run(run, door.bridge.live(run)),
            "transitions": [shown_transition(row) for row in runs.list_transitions(tx, run.id)],
            "events": [shown_event(event) for event in events.list_run_events(tx, run.id)],
        }

    return answer(200, await door.database.read(work))


async def wait_for_run(door: Door, call: Call[WaitQuery]) -> Response:
    """Answers as soon as the run is settled, or as it is at the timeout."""
    loop = asyncio.get_running_loop()
    until = loop.time() + call.given.timeout
    while True:
        left_s = until - loop.time()
        async with door.hint(door.bridge.wait_settled(call.id(), max(0.0, min(RECHECK_S, left_s)))) as hint:
            run = await door.database.read(lambda tx: _present(tx, call.id()))
            if run.settled or left_s <= 0 or door.closing.is_set() or _is_gone(call):
                return answer(200, shown_run(run, door.bridge.live(run)))
            await hint()


def _is_gone(call: Call[WaitQuery]) -> bool:
    return call.request.transport is None or call.request.transport.is_closing()


async def poll_run(door: Door, call: Call[NoBody]) -> Response:
    """Look at the run now."""
    return await _look_now(door, call)


async def _look_now(door: Door, call: Call[NoBody]) -> Response:
    def work(tx: Tx) -> Response:
        run = _unsettled(tx, call.id())
        run_leases.request_poll(tx, run.id)
        return answer(202, shown_run(_present(tx, run.id), door.bridge.live(run)))

    given = await door.write(call, work)
    await door.bridge.poll_now(call.id())
    return given


async def cancel_run(door: Door, call: Call[NoBody]) -> Response:
    """Ask the provider to cancel; the run is looked at at once and settles when the provider says so."""
    await door.bridge.cancel(await door.database.read(lambda tx: _unsettled(tx, call.id())))
    return await _look_now(door, call)


async def delete_run(door: Door, call: Call[NoQuery]) -> Response:
    """Stop watching, without an event; the run's own webhooks go with it."""

    def work(tx: Tx) -> None:
        run = _present(tx, call.id())
        for endpoint in endpoints.list_run_endpoints(tx, [run.id]):
            endpoints.remove_endpoint(tx, endpoint.id)
        runs.delete_run(tx, run.id)

    await door.database.write(work)
    door.bridge.forget(call.id())
    return Response(204)


def _present(tx: Tx, run_id: str) -> Run:
    run = runs.get_run(tx, run_id)
    if run is None:
        raise NotFound(f"there is no run {run_id}")
    return run


def _unsettled(tx: Tx, run_id: str) -> Run:
    run = _present(tx, run_id)
    if run.settled:
        raise Conflict(f"the run is over ({run.status.value}); nothing about it will change any more")
    return run
