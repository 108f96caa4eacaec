"""Register runs: one transaction finds those watched already and adds the others and their one-run webhooks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from bridge.api.request_models import RunBody, WebhookBody
from bridge.domain.connection import Connection
from bridge.domain.endpoint import Endpoint, EndpointSource
from bridge.domain.event import EventType
from bridge.domain.ids import new_id
from bridge.domain.run import Run
from bridge.domain.secret import Secret
from bridge.domain.signing.hmac_v1 import new_secret
from bridge.store import endpoints, events, runs
from bridge.store.transaction import Tx


@dataclass(frozen=True, slots=True)
class Registration:
    """A checked request to watch a run that exists at the provider."""

    body: RunBody
    connection: Connection
    provider_run_id: str
    provider_ref: str | None = None
    offer: runs.LeaseOffer | None = None
    """From the poller of the connection, when the request came in."""


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
    """Take runs out of `found` that are over and get a new run: those given up here, and all on request."""
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
    _queue_finished(tx, [given for _, given in asked if given.secret and given.run.settled])


def _new_webhook(webhook: WebhookBody, run_id: str) -> tuple[Endpoint, Secret]:
    endpoint = Endpoint(
        id=new_id("ep"),
        url=webhook.url,
        source=EndpointSource.RUN,
        events=webhook.events,
        headers=webhook.headers,
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
