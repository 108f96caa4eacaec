"""Planted faults: each changes a line of the real code, and the simulation must find it.

`text` stands in `file` exactly once, which a test checks: who changes that line changes it here too, so that the fault
stays the one that is described.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Mutant:
    """`fault` is what a person would say of it."""

    name: str
    fault: str
    file: str
    text: str
    instead: str
    more: tuple[tuple[str, str], ...] = ()
    """Further changes to the same file: what stands there, and what instead."""

    @property
    def module(self) -> str:
        """The name of the module that it is in."""
        return self.file.removesuffix(".py").replace("/", ".")


MUTANTS: Final = (
    Mutant(
        "any-answer-delivers",
        "a delivery is marked as delivered whatever the receiver answered",
        "bridge/delivery/outcome.py",
        "    if 200 <= status <= 299:\n        return Judged(Outcome.DELIVERED)",
        "    if 200 <= status <= 599:\n        return Judged(Outcome.DELIVERED)",
    ),
    Mutant(
        "mark-before-send",
        "the attempt is recorded as delivered without waiting for the answer",
        "bridge/delivery/deliverer.py",
        "        answer = await self._post(claimed)\n",
        "        from bridge.domain.delivery import PostResult\n"
        "        asyncio.create_task(self._post(claimed))\n"
        "        answer = PostResult(Outcome.DELIVERED, 1, 204)\n",
    ),
    Mutant(
        "acknowledged-before-commit",
        "callers are answered before their commit",
        "bridge/store/sqlite/writer.py",
        '            driver.execute("COMMIT")\n            self._check()',
        "            self._check()",
        (
            (
                'the rollback of the last batch failed\n            driver.execute("ROLLBACK")',
                'the rollback of the last batch failed\n            driver.execute("COMMIT")',
            ),
        ),
    ),
    Mutant(
        "failed-commit-is-success",
        "a transaction that the disk refused is answered as if it had been committed",
        "bridge/store/sqlite/writer.py",
        "            _fail(batch, error if isinstance(error, StoreUnavailable) else unavailable(error))\n"
        "            return None",
        "            return CommitSignals()",
    ),
    Mutant(
        "event-outside-transaction",
        "the run is changed and its events are forgotten when the commit holds several changes",
        "bridge/store/runs.py",
        "    record_events(tx, new, offer=offer)",
        "    if len(changes) == 1:\n        record_events(tx, new, offer=offer)",
    ),
    Mutant(
        "sequence-from-clock",
        "the sequence of an event comes from the clock",
        "bridge/store/runs.py",
        "            sequence=before.sequence + number,",
        "            sequence=int(tx.now.timestamp()) % 1000 + number,",
    ),
    Mutant(
        "settled-reopened",
        "a settled run changes again",
        "bridge/domain/transition.py",
        "    if run.settled:\n        return False\n    return (",
        "    return (",
    ),
    Mutant(
        "poll-error-is-a-state",
        "a run is lost at the first failed poll",
        "bridge/polling/poll_results.py",
        "        if transition.is_lost(tracked.with_counters(), wall):",
        "        if True:",
    ),
    Mutant(
        "no-lease-given-back",
        "what a daemon that was killed had leased is never due again",
        "bridge/store/nodes.py",
        "        _release(tx, [row.id for row in tx.connection.execute(sa.select(nodes.c.id))])\n",
        "        return\n",
    ),
    Mutant(
        "order-forgotten",
        "an event goes out beside the one before it, where order is asked for",
        "bridge/store/events.py",
        '            row["next_attempt_at"] = None\n    if offer',
        "            pass\n    if offer",
    ),
    Mutant(
        "next-not-released",
        "the event after a delivered one is not released, where order is asked for",
        "bridge/store/attempts.py",
        "        if each.releases and each.result.delivery.run_id:",
        "        if each.releases and each.result.delivery.attempts and each.result.delivery.run_id:",
    ),
    Mutant(
        "retry-after-ignored",
        "a delivery is tried again before the receiver's Retry-After",
        "bridge/domain/delivery.py",
        "        delay_s = max(delay_s, min(retry_after_s, RETRY_AFTER_MAX_S))",
        "        delay_s = min(delay_s, retry_after_s)",
    ),
    Mutant(
        "retry-counted-twice",
        "one failed attempt uses up two retries",
        "bridge/store/attempts.py",
        "result.answer.outcome is Outcome.DELIVERED else 1)",
        "result.answer.outcome is Outcome.DELIVERED else 2)",
    ),
    Mutant(
        "bytes-made-again",
        "a retry has other bytes than the first attempt",
        "bridge/delivery/deliverer.py",
        "            body=claimed.body,",
        '            body=claimed.body + b" " * claimed.delivery.attempts,',
    ),
    Mutant(
        "jump-expires",
        "due times stay where they were when the wall clock is set back",
        "bridge/store/clock_shift.py",
        '    (deliveries, ("next_attempt_at",), deliveries.c.next_attempt_at.is_not(None)),\n',
        "",
    ),
    Mutant(
        "rollback-forgotten",
        "work that failed stays in the transaction of the others",
        "bridge/store/sqlite/writer.py",
        "            for statement in guard.undo:",
        "            for statement in guard.end:",
    ),
    Mutant(
        "secret-logged",
        "the key of a connection is in the log",
        "bridge/polling/poll_results.py",
        "            reason=failed.message,\n        )",
        "            reason=failed.message,\n            key=self._client.connection.api_key.reveal(),\n        )",
    ),
    Mutant(
        "finished-twice",
        "a run that ends gets two `run.finished` events",
        "bridge/store/runs.py",
        "        for number, event_type in enumerate(change.decision.events, start=1)",
        "        for number, event_type in enumerate(\n"
        "            change.decision.events + change.decision.events[-1:] * after.settled, start=1\n        )",
    ),
    Mutant(
        "pause-forgotten",
        "an endpoint that asks for a pause gets the other deliveries",
        "bridge/domain/endpoint_backoff.py",
        "    return replace(backoff, slowdowns=max(1, slowdowns), paused_until=later)",
        "    return replace(backoff, slowdowns=max(1, slowdowns), paused_until=now if later else None)",
    ),
    Mutant(
        "schedule-one-ahead",
        "the first delay of the retry schedule is never used",
        "bridge/domain/delivery.py",
        "    delay_s = schedule.delays_s[failures - 1] * spread",
        "    delay_s = schedule.delays_s[min(failures, len(schedule.delays_s) - 1)] * spread",
    ),
    Mutant(
        "given-up-too-soon",
        "a delivery is given up one attempt before its schedule ends",
        "bridge/domain/delivery.py",
        "    if failures > len(schedule.delays_s):",
        "    if failures >= len(schedule.delays_s):",
    ),
    Mutant(
        "never-given-up",
        "a delivery whose schedule is used up is tried for ever",
        "bridge/domain/delivery.py",
        "    if failures > len(schedule.delays_s):\n        return None",
        "    failures = min(failures, len(schedule.delays_s))",
    ),
    Mutant(
        "filter-ignored",
        "an endpoint gets events that its filter refuses",
        "bridge/store/events.py",
        "    return endpoint.filter is None or tx.filters.accepts(endpoint.filter, event)",
        "    return True",
    ),
    Mutant(
        "types-ignored",
        "an endpoint gets events of types that it did not choose",
        "bridge/store/events.py",
        "    if not endpoint.wants(event.type):\n        return False\n    return endpoint.filter",
        "    return endpoint.filter",
    ),
    Mutant(
        "sent-while-off",
        "an endpoint that is switched off still gets what waited for it",
        "bridge/store/endpoints.py",
        "    hold_pending(tx, endpoint_id)\n    return bool(switched)",
        "    return bool(switched)",
        (
            (
                "SHARED = sa.select(endpoints).where(endpoints.c.run_id.is_(None), _IS_ACTIVE)",
                "SHARED = sa.select(endpoints).where(endpoints.c.run_id.is_(None), endpoints.c.deleted_at.is_(None))",
            ),
        ),
    ),
    Mutant(
        "enabled-and-forgotten",
        "what waited for an endpoint stays held when it is switched on again",
        "bridge/store/endpoints.py",
        "    release_pending(tx, endpoint_id)\n    tx.signals.replays_due = True",
        "    tx.signals.replays_due = True",
    ),
    Mutant(
        "old-secret-signs",
        "a secret that was rotated out signs for ever",
        "bridge/store/endpoints.py",
        '    sa.or_(endpoint_secrets.c.expires_at.is_(None), endpoint_secrets.c.expires_at > sa.bindparam("now")),\n)',
        '    sa.or_(sa.true(), endpoint_secrets.c.expires_at > sa.bindparam("now")),\n)',
    ),
    Mutant(
        "webhook-of-all-runs",
        "the webhook of one run gets the events of others",
        "bridge/store/events.py",
        '        for endpoint in (*shared, *of_runs.get(event.run_id or "", ())):',
        "        for endpoint in (*shared, *(each for found in of_runs.values() for each in found)):",
    ),
    Mutant(
        "rate-limit-ignored",
        "an endpoint gets more in a second than its limit",
        "bridge/store/events.py",
        "and not is_paused and endpoint.rate_limit is None",
        "and not is_paused",
    ),
    Mutant(
        "provider-pause-ignored",
        "a provider is asked before the pause is over that it asked for",
        "bridge/polling/connection_client.py",
        "            case FailureKind.THROTTLED | FailureKind.SERVER_ERROR:\n                self.limiter.refuse(",
        "            case FailureKind.THROTTLED | FailureKind.SERVER_ERROR:\n"
        "                self.limiter.answer(now, sent_at=sent_at)\n            case None:\n                self.limiter.refuse(",
    ),
    Mutant(
        "feed-skips",
        "the feed leaves out an event behind each page",
        "bridge/store/events.py",
        "    query = sa.select(events).where(events.c.position > after).order_by(events.c.position).limit(limit)",
        "    skipped = after + 1 if after else 0\n"
        "    query = sa.select(events).where(events.c.position > skipped).order_by(events.c.position).limit(limit)",
    ),
    Mutant(
        "feed-by-time",
        "the feed is in the order of the wall clock",
        "bridge/store/events.py",
        "    return sorted(found, key=lambda event: event.position or 0)",
        "    return sorted(found, key=lambda event: event.created_at)",
    ),
    Mutant(
        "replay-skips",
        "a replay leaves out the first event of each batch",
        "bridge/store/replays.py",
        "        resend(tx, endpoint, [event_of(row) for row in chosen], known)",
        "        resend(tx, endpoint, [event_of(row) for row in chosen[1:]], known)",
    ),
    Mutant(
        "retention-takes-owed",
        "retention deletes what was not delivered yet",
        "bridge/store/retention.py",
        "        .where(runs.c.next_poll_at.is_(None), runs.c.status_since < before, ~is_pending(runs.c.id))",
        "        .where(runs.c.next_poll_at.is_(None), runs.c.status_since < before)",
    ),
    Mutant(
        "retention-by-wall-clock",
        "a run is deleted too soon when the clock is set forward",
        "bridge/store/clock_shift.py",
        '    (runs, ("status_since",), sa.true()),  # of settled runs too: retention counts from it\n',
        "",
    ),
    Mutant(
        "deadline-by-wall-clock",
        "a run expires when the clock is set forward",
        "bridge/store/clock_shift.py",
        '    (runs, ("deadline_at",), sa.and_(runs.c.next_poll_at.is_not(None), ~runs.c.deadline_is_fixed)),\n',
        "",
    ),
    Mutant(
        "deadline-never-passes",
        "a run that never ends is never given up",
        "bridge/domain/transition.py",
        "    return now >= deadline_at",
        "    return now >= deadline_at.replace(year=deadline_at.year + 1)",
    ),
    Mutant(
        "lost-at-first-404",
        "a run is lost at the first 404",
        "bridge/domain/transition.py",
        "        run.not_found_count >= NOT_FOUND_COUNT_MIN",
        "        run.not_found_count >= 1",
        (("NOT_FOUND_SPAN_MIN_S: Final = 60.0", "NOT_FOUND_SPAN_MIN_S: Final = 0.0"),),
    ),
    Mutant(
        "version-not-compared",
        "a change is recorded although the run has changed since",
        "bridge/store/runs.py",
        '_UPDATE_IF_UNCHANGED = _UPDATE.where(runs.c.version == sa.bindparam("old_version"))',
        '_UPDATE_IF_UNCHANGED = _UPDATE.where(sa.bindparam("old_version", type_=sa.Integer) >= 0)',
    ),
    Mutant(
        "started-twice",
        "a run starts each time that it runs again",
        "bridge/domain/transition.py",
        "        has_started=run.has_started or seen.status is RunStatus.RUNNING,",
        "        has_started=seen.status is RunStatus.RUNNING,",
    ),
    Mutant(
        "previous-is-present",
        "an event says that the run was before what it is now",
        "bridge/store/runs.py",
        "            previous_status=before.status,",
        "            previous_status=after.status,",
    ),
    Mutant(
        "transition-left-out",
        "a change of status beside another one in a commit leaves no transition",
        "bridge/store/runs.py",
        "    execute_many(tx, _INSERT_TRANSITIONS, [_transition(tx, c.before, made[c.before.id]) for c in moved])",
        "    execute_many(tx, _INSERT_TRANSITIONS, [_transition(tx, c.before, made[c.before.id]) for c in moved[:1]])",
    ),
    Mutant(
        "output-lost",
        "the output of a run is left out",
        "bridge/domain/transition.py",
        '        "output": seen.output,',
        '        "output": run.output,',
    ),
    Mutant(
        "other-run-believed",
        "an answer about another run is taken for this one",
        "bridge/providers/fields.py",
        "    if run_id is not None and not is_same_run_id(run_id, provider_run_id):",
        "    if run_id is not None and not run_id:",
    ),
    Mutant(
        "metadata-mixed-up",
        "runs that are registered together have the metadata of one of them",
        "bridge/store/runs.py",
        "    made = _insert(tx, [_registered(each, tx.now) for each in new], leased_by)",
        "    made = _insert(\n        tx, [replaced(_registered(each, tx.now), metadata=new[0].metadata) for each in new], leased_by\n    )",
    ),
    Mutant(
        "cancel-forgotten",
        "a run that is to be cancelled is only polled",
        "bridge/daemon_control.py",
        "            await self._poller(run.connection).client.cancel(run)",
        "            self._poller(run.connection)",
    ),
    Mutant(
        "started-twice-at-the-provider",
        "a request that is repeated with its key starts a second run",
        "bridge/api/context.py",
        "        key = request.key\n        if key is None:\n            return await start()\n",
        "        key = request.key\n        if key is None or True:\n            return await start()\n",
    ),
    Mutant(
        "hours-off",
        "the times of a provider are read in another time zone",
        "bridge/domain/timestamps.py",
        "        whole = datetime.fromtimestamp(seconds, UTC)",
        "        whole = datetime.fromtimestamp(seconds + 3600, UTC)",
    ),
    Mutant(
        "secret-in-the-file",
        "kept answers, with the secrets in them, are stored as they are",
        "bridge/store/encryption.py",
        "    return tx.keyring.encrypt(_response_place(key), body.decode()).encode()",
        "    return body",
    ),
    Mutant(
        "sent-again",
        "what is being sent is given back and sent beside that",
        "bridge/delivery/deliverer.py",
        "        unheld = leased - self._in_flight.keys() - self._to_give_back.keys()",
        "        unheld = leased",
    ),
    Mutant(
        "recorded-again",
        "an attempt whose record was committed unnoticed is recorded again",
        "bridge/store/attempts.py",
        '    deliveries.c.attempts == sa.bindparam("old_attempts"),\n    deliveries.c.state == DeliveryState.PENDING.value,',
        '    sa.bindparam("old_attempts", type_=sa.Integer) >= 0,',
        (
            (
                '_SETTLE_IF_OURS = _SETTLE.where(\n    deliveries.c.leased_by == sa.bindparam("node"),',
                '_SETTLE_IF_OURS = _SETTLE.where(\n    sa.bindparam("node", type_=sa.Text) != "",',
            ),
        ),
    ),
    Mutant(
        "released-out-of-order",
        "the last event of a run that waits goes first, where order is asked for",
        "bridge/store/ordering.py",
        "            d.id.in_(first.order_by(d.leased_by, d.sequence).limit(1).scalar_subquery()), d.next_attempt_at.is_(None)\n        )\n        .where(~_earlier_is_pending())",
        "            d.id.in_(first.order_by(d.sequence.desc()).limit(1).scalar_subquery()), d.next_attempt_at.is_(None)\n        )",
    ),
    Mutant(
        "never-recovered",
        "a connection that answers again stays failing",
        "bridge/polling/connection_client.py",
        "        if is_over or self.health is ConnectionHealth.UNKNOWN:",
        "        if self.health is ConnectionHealth.UNKNOWN:",
    ),
    Mutant(
        "posts-are-kept",
        "what was sent stays in memory",
        "bridge/delivery/deliverer.py",
        "            del self._in_flight[delivery_id]\n",
        '            self._in_flight[f"{delivery_id} {self._clock.monotonic()}"] = self._in_flight.pop(delivery_id)\n',
    ),
    Mutant(
        "runs-are-kept",
        "what was watched stays in memory",
        "bridge/polling/poller.py",
        "            self._tasks.pop(tracked, None)\n        is_held",
        '            self._tasks.pop(tracked, None)\n        self.__dict__.setdefault("kept", []).append((tracked, tracked.run))\n        is_held',
    ),
    Mutant(
        "removed-and-watched",
        "a run that a client removed goes on",
        "bridge/store/runs.py",
        "    gone = tx.connection.execute(sa.delete(runs).where(runs.c.id == run_id)).rowcount",
        "    gone = 1",
    ),
)
