"""Runs: register, list, show, wait, poll, cancel, stop watching."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from multidict import CIMultiDictProxy
from pydantic_core import to_json

from bridge.api.context import Request, RequestContext, Response, present
from bridge.api.problem import problem_of
from bridge.api.request_models import BatchBody, Checks, NoBody, NoQuery, RunBody, TriggerBody, WaitQuery, WebhookBody
from bridge.api.request_parsing import read_given
from bridge.api.response_models import RunAnswer, RunInFull, RunList, RunRow, page_of, read_cursor, run_shown
from bridge.api.selections import RunsQuery
from bridge.domain.connection import Connection
from bridge.domain.endpoint import Endpoint, EndpointSource
from bridge.domain.errors import Conflict, InvalidInput, Problem, StoreUnavailable
from bridge.domain.event import EventType
from bridge.domain.frozen import frozen
from bridge.domain.ids import new_id
from bridge.domain.run import Json, Run, canonical_run_id
from bridge.domain.secret import Secret
from bridge.domain.signing.hmac_v1 import new_secret
from bridge.domain.trace_context import TraceContext
from bridge.domain.webhook_url import mask_query_secrets
from bridge.store import deliveries, endpoints, events, run_leases, run_lists, runs
from bridge.store.transaction import Tx

SLICE = 50  # runs that are checked at a time
RECHECK_S = 2.0  # hints come from this process only; another node may settle the run
NO_TRIGGER = Problem("trigger", "a batch only registers runs that exist; start one with POST /v1/runs")


async def register_run(context: RequestContext, request: Request[RunBody]) -> Response:
    """Watch a run, or start one and watch it."""
    body = request.data
    connection, trace = context.bridge.connections[body.connection], _trace_context(request.http.headers)
    if body.trigger is None:
        offer = context.bridge.lease_offer(connection.name)
        registration = Registration(body, connection, str(body.provider_run_id), offer=offer, trace_context=trace)
        return await context.write_grouped(request, registration, _register_all)
    trigger = body.trigger
    started, reference = await context.start_once(request, lambda: _trigger(context, body.connection, trigger))
    registration = Registration(
        body, connection, started, reference, context.bridge.lease_offer(connection.name), trace
    )
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
    return [Response(201 if done.is_new else 200, to_json(_shown(context, done))) for done in register(tx, wanted)]


def _shown(context: RequestContext, done: Registered) -> dict[str, object]:
    """The values of a `RegisteredRun`."""
    live = None if done.is_new else context.bridge.live(done.run)
    if done.webhook is None:
        return run_shown(done.run, live, {})
    secret = done.secret.reveal() if done.secret else None
    webhook = {"id": done.webhook.id, "url": mask_query_secrets(done.webhook.url), "secret": secret}
    return run_shown(done.run, live, {"webhook": webhook})


async def register_batch(context: RequestContext, request: Request[BatchBody]) -> Response:
    """Watch up to 1,000 runs in one transaction; each item has its own outcome."""
    judged: list[Registration | InvalidInput] = []

    def work(tx: Tx) -> Response:
        done = iter(register(tx, [one for one in judged if isinstance(one, Registration)]))
        return Response(200, to_json({"data": [_item(context, one, done) for one in judged]}))

    async with context.batches.take():
        checks, trace = context.checks(), _trace_context(request.http.headers)
        offers = {name: context.bridge.lease_offer(name) for name in checks.connections}
        for item in request.data.runs:
            judged.append(_judge(checks, offers, item, trace))
            if len(judged) % SLICE == 0:  # what else is due goes on in between
                await asyncio.sleep(0)
        return await context.write(request, work)


def _judge(
    checks: Checks, offers: Mapping[str, runs.LeaseOffer | None], item: Json, trace: str | None
) -> Registration | InvalidInput:
    try:
        body = read_given(RunBody, item, context=checks)
    except InvalidInput as error:
        return error
    if body.provider_run_id is None:
        return InvalidInput([NO_TRIGGER])
    connection = checks.connections[body.connection]
    return Registration(body, connection, body.provider_run_id, offer=offers[connection.name], trace_context=trace)


def _trace_context(headers: CIMultiDictProxy[str]) -> str | None:
    """The trace that a request belongs to, as it is stored."""
    if "traceparent" not in headers:
        return None
    found = TraceContext.of(headers.getall("traceparent"), headers.getall("tracestate", ()))
    return None if found is None else str(found)


def _item(context: RequestContext, one: Registration | InvalidInput, done: Iterator[Registered]) -> dict[str, object]:
    """The values of a `BatchItem`."""
    if isinstance(one, InvalidInput):
        return {"status": 422, "error": problem_of(one).model_dump(by_alias=True, exclude_unset=True)}
    registered = next(done)
    return {"status": 201 if registered.is_new else 200, "run": _shown(context, registered)}


async def list_runs(context: RequestContext, request: Request[RunsQuery]) -> Response:
    """List runs, newest first."""
    query = request.data
    wanted = query.wanted
    before = read_cursor(query.cursor)

    def work(tx: Tx) -> tuple[list[Run], dict[str, dict[str, int]]]:
        found = run_lists.list_runs(tx, wanted, limit=query.limit + 1, before=before)
        sent = deliveries.count_states(tx, run_ids=[run.id for run in found]) if query.deliveries and found else {}
        return found, sent

    found, sent = await context.database.read(work)
    shown = [
        RunRow.of(run, context.bridge.live(run), **({"deliveries": sent.get(run.id, {})} if query.deliveries else {}))
        for run in found
    ]
    return Response.of(200, page_of(RunList, shown, query.limit))


async def show_run(context: RequestContext, request: Request[NoQuery]) -> Response:
    """Show a run with its transitions and events."""

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
            recent_polls=context.bridge.recent_polls(run),
            definition=connection and connection.definition,
        )

    return Response.of(200, await context.database.read(work))


async def wait_for_run(context: RequestContext, request: Request[WaitQuery]) -> Response:
    """Wait for a run: answer as soon as it is settled, or as it is at the timeout."""
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
    """Poll a run now."""
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
    """Ask the provider to cancel a run; it is polled at once and settles when the provider says so."""
    await context.bridge.cancel(await context.database.read(lambda tx: _unsettled(tx, request.id())))
    return await poll_run(context, request)


async def delete_run(context: RequestContext, request: Request[NoQuery]) -> Response:
    """Stop watching a run, without an event; its own webhooks go with it."""

    def work(tx: Tx) -> str:
        run = _present(tx, request.id())
        own = endpoints.list_run_endpoints(tx, [run.id])
        runs.delete_run(tx, run.id)
        for endpoint in own:
            endpoints.remove_endpoint(tx, endpoint.id)
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
    return present(run, f"run {name}")


def _unsettled(tx: Tx, name: str) -> Run:
    run = _present(tx, name)
    if run.settled:
        raise Conflict(f"the run is over ({run.status.value}); nothing about it will change any more")
    return run


@frozen
class Registration:
    """A checked request to watch a run that exists at the provider."""

    body: RunBody
    connection: Connection
    provider_run_id: str
    provider_ref: str | None = None
    offer: runs.LeaseOffer | None = None
    """From the poller of the connection, when the request came in."""
    trace_context: str | None = None


@dataclass(slots=True)
class Registered:
    """The run, whether it is new, and the webhook asked for; `secret` only if the webhook was added."""

    run: Run
    is_new: bool
    webhook: Endpoint | None = None
    secret: Secret | None = None


def register(tx: Tx, wanted: Sequence[Registration]) -> list[Registered]:
    """Watch runs. The number of statements does not depend on the number of runs.

    A run that ended `lost` or `expired` is watched again as a new run, others that are over with `rewatch`. Otherwise a
    run that is known already stays as it is, except that a webhook is added. If the run is settled, the webhook
    gets the recorded event at once.
    """
    found = _watched(tx, wanted)
    _watch_again(tx, wanted, found)
    new: dict[tuple[str, str], runs.NewRun] = {}
    for one in wanted:
        if _key(one) not in found:
            new.setdefault(_key(one), _new_run(tx, one))
    offers = {one.connection.name: one.offer for one in wanted if one.offer is not None}
    inserted = runs.insert_runs(tx, list(new.values()), offers)
    added = {(run.connection, run.provider_run_id): run for run in inserted}
    found |= added
    if len(added) < len(new):  # another node has registered some in between
        found |= _watched(tx, [one for one in wanted if _key(one) not in found])
    registered = []
    for one in wanted:
        is_new = added.pop(_key(one), None) is not None  # only the first of equal runs in a batch
        registered.append(Registered(found[_key(one)], is_new))
    _add_webhooks(tx, wanted, registered)
    return registered


def _watch_again(tx: Tx, wanted: Sequence[Registration], found: dict[tuple[str, str], Run]) -> None:
    """Remove from `found` the settled runs to watch again as new ones: those given up here, and any on request."""
    again = {
        _key(one): run.id
        for one in wanted
        if (run := found.get(_key(one))) is not None and run.settled and (one.body.rewatch or run.status.is_our_verdict)
    }
    if again:
        runs.supersede(tx, list(again.values()))
        for key in again:
            del found[key]


def _key(one: Registration) -> tuple[str, str]:
    return one.connection.name, one.provider_run_id


def _watched(tx: Tx, wanted: Sequence[Registration]) -> dict[tuple[str, str], Run]:
    by_connection: dict[str, list[str]] = defaultdict(list)
    for one in wanted:
        by_connection[one.connection.name].append(one.provider_run_id)
    return {
        (name, provider_run_id): run
        for name, ids in by_connection.items()
        for provider_run_id, run in runs.find_watched(tx, name, ids).items()
    }


def _new_run(tx: Tx, one: Registration) -> runs.NewRun:
    body, deadline = one.body, one.body.deadline
    after_s = one.connection.cadence.deadline_s if deadline is None else deadline.after_s
    return runs.NewRun(
        id=new_id("run"),
        connection=one.connection.name,
        provider=one.connection.provider,
        provider_run_id=one.provider_run_id,
        workflow_id=body.workflow_id or (body.trigger.workflow_id if body.trigger else None),
        metadata=body.metadata or {},
        tags=tuple(body.tags or ()),
        cadence=body.cadence_overrides,
        deadline_at=deadline.at if deadline and after_s is None else tx.now + timedelta(seconds=after_s or 0),
        deadline_is_fixed=after_s is None,
        provider_ref=one.provider_ref,
        trace_context=one.trace_context,
    )


def _add_webhooks(tx: Tx, wanted: Sequence[Registration], registered: Sequence[Registered]) -> None:
    asked = [(one.body.webhook, given) for one, given in zip(wanted, registered, strict=True) if one.body.webhook]
    if not asked:
        return
    old = [given.run.id for _, given in asked if not given.is_new]
    present = {(ep.run_id, ep.url): ep for ep in (endpoints.list_run_endpoints(tx, old) if old else [])}
    added: list[tuple[Endpoint, Secret]] = []
    for webhook, given in asked:
        given.webhook = present.get((given.run.id, webhook.url))
        if given.webhook is None:
            given.webhook, given.secret = _new_webhook(webhook, given.run.id)
            present[given.run.id, webhook.url] = given.webhook
            added.append((given.webhook, given.secret))
    endpoints.insert_run_endpoints(tx, added)
    if late := [given for _, given in asked if given.secret and not given.is_new]:
        endpoints.change_listeners(tx)
        present_runs = runs.get_runs(tx, [given.run.id for given in late])  # one may have ended since it was read
        for given in late:
            given.run = present_runs.get(given.run.id, given.run)
    _queue_finished(tx, [given for _, given in asked if given.secret and given.run.settled])


def _new_webhook(webhook: WebhookBody, run_id: str) -> tuple[Endpoint, Secret]:
    endpoint = Endpoint(
        id=new_id("ep"),
        url=webhook.url,
        source=EndpointSource.RUN,
        events=webhook.events,
        headers=webhook.headers,
        trace_context=webhook.trace_context,
        run_id=run_id,
    )
    return endpoint, webhook.secret or Secret(new_secret())


def _queue_finished(tx: Tx, late: Sequence[Registered]) -> None:
    """Queue the recorded event, the same bytes as for every endpoint, for webhooks added after the end."""
    if not late:
        return
    finished = events.finished_events(tx, [given.run.id for given in late])
    events.insert_deliveries(
        tx,
        [
            (finished[given.run.id], given.webhook)
            for given in late
            if given.webhook and given.run.id in finished and given.webhook.wants(EventType.RUN_FINISHED)
        ],
    )
