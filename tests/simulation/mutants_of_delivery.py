"""Planted faults in what is sent. `mutants` has all of them."""

from __future__ import annotations

from typing import Final

from tests.simulation.mutant import Mutant

OF_DELIVERY: Final = (
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
        "posts-are-kept",
        "what was sent stays in memory",
        "bridge/delivery/deliverer.py",
        "            del self._in_flight[delivery_id]\n",
        '            self._in_flight[f"{delivery_id} {self._clock.monotonic()}"] = self._in_flight.pop(delivery_id)\n',
    ),
    Mutant(
        "feed-after-a-time",
        "the feed goes on after the time of the event that was read last",
        "bridge/store/events.py",
        "    query = sa.select(events).where(events.c.position > after).order_by(events.c.position).limit(limit)",
        "    at = sa.select(events.c.created_at).where(events.c.position == after).scalar_subquery()\n"
        '    newer = events.c.created_at > sa.func.coalesce(at, sa.literal_column("0"))\n'
        "    query = sa.select(events).where(newer).order_by(events.c.position).limit(limit)",
    ),
    Mutant(
        "other-id-each-time",
        "the id of an event changes when it is sent again",
        "bridge/domain/leased_delivery.py",
        "signature_headers(keys, self.delivery.event_id, timestamp, self.body)",
        'signature_headers(keys, f"{self.delivery.event_id}{self.delivery.attempts or str()}", timestamp, self.body)',
    ),
    Mutant(
        "body-written-again",
        "a retry has the same JSON, written in another way",
        "bridge/store/deliveries.py",
        "        if (body := row.body or bodies.get(row.event_id)) is not None",
        '        if (body := __import__("json").dumps(__import__("json").loads(row.body or bodies[row.event_id])).encode())',
    ),
    Mutant(
        "no-overlap",
        "a secret that is rotated out with an overlap no longer signs",
        "bridge/store/endpoints.py",
        ".where(of_kind, is_ended).values(expires_at=old_until))",
        ".where(of_kind, is_ended).values(expires_at=tx.now))",
    ),
    Mutant(
        "replay-changes-nothing",
        "a replay leaves deliveries as they are that were delivered",
        "bridge/store/deliveries.py",
        "            state=DeliveryState.PENDING.value,\n            lane=lane.value,\n            failures=0,\n            next_attempt_at=tx.now,\n",
        "            lane=lane.value,\n            failures=0,\n",
    ),
    Mutant(
        "one-of-a-tie",
        "of what is due at the same instant one is sent, the others some time later",
        "bridge/store/deliveries.py",
        "    return sorted(fetch(tx, ACQUIRE_DUE, wanted), key=lambda row: str(row.id))",
        "    found = fetch(tx, ACQUIRE_DUE, wanted)\n"
        "    return sorted({row.next_attempt_at: row for row in found}.values(), key=lambda row: str(row.id))",
    ),
    Mutant(
        "never-well-again",
        "an endpoint that accepts again is probed for ever",
        "bridge/domain/endpoint_backoff.py",
        "        return EndpointBackoff(paused_until=_ahead(backoff.paused_until, now))",
        "        return replace(backoff, paused_until=_ahead(backoff.paused_until, now))",
    ),
    Mutant(
        "given-up-is-delivered",
        "a delivery whose schedule is used up counts as delivered",
        "bridge/domain/delivery.py",
        "    return (DeliveryState.EXHAUSTED, None) if again_at is None",
        "    return (DeliveryState.DELIVERED, None) if again_at is None",
    ),
    Mutant(
        "failures-not-kept",
        "only attempts that delivered are recorded",
        "bridge/store/attempts.py",
        "[_attempt_row(each) for each in recordings])",
        "[_attempt_row(each) for each in recordings if each.result.answer.outcome is Outcome.DELIVERED])",
    ),
    Mutant(
        "switched-on-at-a-start",
        "what waits for an endpoint that is off becomes due when the daemon starts",
        "bridge/store/nodes.py",
        "        # leases of nodes without a row (a restored backup)\n",
        "        tx.connection.execute(\n"
        '            sa.update(deliveries).where(deliveries.c.state == "pending").values(next_attempt_at=_now(tx))\n'
        "        )\n",
    ),
    Mutant(
        "bodies-are-kept",
        "the bytes of what was sent stay in memory",
        "bridge/delivery/deliverer.py",
        "            body=claimed.body,",
        '            body=self.__dict__.setdefault("kept", []).append(bytes(bytearray(claimed.body))) or claimed.body,',
    ),
)
