"""Runs: register, list, show, wait, poll, cancel, stop watching."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping

from bridge.api.context import Request, RequestContext, Response
from bridge.api.problem import problem_of
from bridge.api.register import Registered, Registration, register
from bridge.api.request_models import BatchBody, Checks, NoBody, NoQuery, RunBody, RunsQuery, TriggerBody, WaitQuery
from bridge.api.response_models import (
    BatchAnswer,
    BatchItem,
    RegisteredRun,
    RunAnswer,
    RunInFull,
    RunList,
    page_of,
    read_cursor,
)
from bridge.api.validation_errors import read_given
from bridge.domain.errors import Conflict, InvalidInput, NotFound, Problem, StoreUnavailable
from bridge.domain.run import Json, Run, canonical_run_id
from bridge.domain.webhook_url import mask_query_secrets
from bridge.store import endpoints, events, run_leases, run_lists, runs
from bridge.store.transaction import Tx

RECHECK_S = 2.0  # hints come from this process only; another node may settle the run
NO_TRIGGER = Problem("trigger", "a batch only registers runs that exist; start one with POST /v1/runs")


async def register_run(context: RequestContext, request: Request[RunBody]) -> Response:
    """Watch a run, or start one and watch it."""
    body = request.data
    connection = context.bridge.connections[body.connection]
    if body.trigger is None:
        offer = context.bridge.lease_offer(connection.name)
        registration = Registration(body, connection, str(body.provider_run_id), offer=offer)
        return await context.write_grouped(request, registration, _register_all)
    trigger = body.trigger
    started, reference = await context.start_once(request, lambda: _trigger(context, body.connection, trigger))
    registration = Registration(body, connection, started, reference, context.bridge.lease_offer(connection.name))
    try:
        return await context.write_grouped(request, registration, _register_all)
    except StoreUnavailable as error:
        raise StoreUnavailable(
            f"the run was started at the provider as {started!r} but could not be recorded; "
            f"register it with this provider_run_id instead of trigger ({error})"
        ) from error


async def _trigger(context: RequestContext, connection: str, trigger: TriggerBody) -> tuple[str, str | None]:
    return await context.bridge.trigger(
        connection, trigger.workflow_id, trigger.inputs, dict(trigger.model_extra or {})
    )


def _register_all(context: RequestContext, tx: Tx, wanted: list[Registration]) -> list[Response]:
    return [Response.of(201 if done.is_new else 200, _shown(context, done)) for done in register(tx, wanted)]


def _shown(context: RequestContext, done: Registered) -> RegisteredRun:
    live = None if done.is_new else context.bridge.live(done.run)
    if done.webhook is None:
        return RegisteredRun.of(done.run, live)
    secret = done.secret.reveal() if done.secret else None
    return RegisteredRun.of(
        done.run, live, webhook={"id": done.webhook.id, "url": mask_query_secrets(done.webhook.url), "secret": secret}
    )


async def register_batch(context: RequestContext, request: Request[BatchBody]) -> Response:
    """Watch up to 1,000 runs in one transaction; each item has its own outcome."""
    checks = context.checks()
    offers = {name: context.bridge.lease_offer(name) for name in checks.connections}
    judged = [_judge(checks, offers, item) for item in request.data.runs]
    good = [one for one in judged if isinstance(one, Registration)]

    def work(tx: Tx) -> Response:
        done = iter(register(tx, good))
        return Response.of(200, BatchAnswer(data=[_item(context, one, done) for one in judged]))

    return await context.write(request, work)


def _judge(checks: Checks, offers: Mapping[str, runs.LeaseOffer | None], item: Json) -> Registration | InvalidInput:
    try:
        body = read_given(RunBody, item, context=checks)
    except InvalidInput as error:
        return error
    if body.provider_run_id is None:
        return InvalidInput([NO_TRIGGER])
    connection = checks.connections[body.connection]
    return Registration(body, connection, body.provider_run_id, offer=offers[connection.name])


def _item(context: RequestContext, one: Registration | InvalidInput, done: Iterator[Registered]) -> BatchItem:
    if isinstance(one, InvalidInput):
        return BatchItem(status=422, error=problem_of(one))
    registered = next(done)
    return BatchItem(status=201 if registered.is_new else 200, run=_shown(context, registered))


async def list_runs(context: RequestContext, request: Request[RunsQuery]) -> Response:
    """Newest first."""
    query = request.data
    wanted = run_lists.RunFilter(
        connection=query.connection,
        statuses=query.statuses,
        tag=query.tag,
        workflow_id=query.workflow_id,
        provider_run_id=query.provider_run_id,
        id_prefix=query.q,
        since=query.since,
        until=query.until,
        metadata=query.metadata,
    )
    before = read_cursor(query.cursor)
    found = await context.database.read(
        lambda tx: run_lists.list_runs(tx, wanted, limit=query.limit + 1, before=before)
    )
    shown = [RunAnswer.of(run, context.bridge.live(run)) for run in found]
    return Response.of(200, page_of(RunList, shown, query.limit))


async def show_run(context: RequestContext, request: Request[NoQuery]) -> Response:
    """One run with its transitions and events."""

    def work(tx: Tx) -> RunInFull:
        run = _present(tx, request.id())
        recorded = [json.loads(event.body) for event in events.list_run_events(tx, run.id)]
        transitions = runs.list_transitions(tx, run.id)
        connection = context.bridge.connections.get(run.connection)
        return RunInFull.of(
            run,
            context.bridge.live(run),
            transitions=transitions,
            events=recorded,
            definition=connection and connection.definition,
        )

    return Response.of(200, await context.database.read(work))


async def wait_for_run(context: RequestContext, request: Request[WaitQuery]) -> Response:
    """Answers as soon as the run is settled, or as it is at the timeout."""
    loop = asyncio.get_running_loop()
    until = loop.time() + request.data.timeout
    run_id = (await context.database.read(lambda tx: _present(tx, request.id()))).id
    while True:
        left_s = until - loop.time()
        async with context.listening(context.bridge.wait_settled(run_id, max(0.0, min(RECHECK_S, left_s)))) as hint:
            run = await context.database.read(lambda tx: _present(tx, run_id))
            if run.settled or left_s <= 0 or context.closing.is_set() or _is_gone(request):
                return Response.of(200, RunAnswer.of(run, context.bridge.live(run)))
            await hint()


def _is_gone(request: Request[WaitQuery]) -> bool:
    return request.http.transport is None or request.http.transport.is_closing()


async def poll_run(context: RequestContext, request: Request[NoBody]) -> Response:
    """Look at the run now."""
    return await _poll_now(context, request)


async def _poll_now(context: RequestContext, request: Request[NoBody]) -> Response:
    run_id = ""

    def work(tx: Tx) -> Response:
        nonlocal run_id
        run = _unsettled(tx, request.id())
        run_id = run.id
        run_leases.request_poll(tx, run.id)
        return Response.of(202, RunAnswer.of(_present(tx, run.id), context.bridge.live(run)))

    response = await context.write(request, work)
    await context.bridge.poll_now(run_id)
    return response


async def cancel_run(context: RequestContext, request: Request[NoBody]) -> Response:
    """Ask the provider to cancel; the run is looked at at once and settles when the provider says so."""
    await context.bridge.cancel(await context.database.read(lambda tx: _unsettled(tx, request.id())))
    return await _poll_now(context, request)


async def delete_run(context: RequestContext, request: Request[NoQuery]) -> Response:
    """Stop watching, without an event; the run's own webhooks go with it."""

    def work(tx: Tx) -> str:
        run = _present(tx, request.id())
        for endpoint in endpoints.list_run_endpoints(tx, [run.id]):
            endpoints.remove_endpoint(tx, endpoint.id)
        runs.delete_run(tx, run.id)
        return run.id

    context.bridge.forget(await context.database.write(work))
    return Response(204)


def _present(tx: Tx, name: str) -> Run:
    """The run with this id, or with this `CONNECTION:PROVIDER_RUN_ID`. Raises NotFound."""
    connection, colon, provider_run_id = name.partition(":")
    if colon:
        run = next(iter(runs.find_watched(tx, connection, [canonical_run_id(provider_run_id)]).values()), None)
    else:
        run = runs.get_run(tx, name)
    if run is None:
        raise NotFound(f"there is no run {name}")
    return run


def _unsettled(tx: Tx, name: str) -> Run:
    run = _present(tx, name)
    if run.settled:
        raise Conflict(f"the run is over ({run.status.value}); nothing about it will change any more")
    return run
