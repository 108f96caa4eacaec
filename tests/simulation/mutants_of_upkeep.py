"""Planted faults in what must stay over restarts, reloads, pauses, replays and deletions. `mutants` has all of them."""

from __future__ import annotations

from typing import Final

from tests.simulation.mutant import Mutant

_AT_A_START: Final = "    tx.connection.execute(sa.delete(nodes).where(nodes.c.id.in_(node_ids)))\n"

OF_UPKEEP: Final = (
    Mutant(
        "pause-lost-at-a-start",
        "the pause that an endpoint asked for is over when the daemon starts",
        "bridge/store/nodes.py",
        _AT_A_START,
        _AT_A_START + '    tx.connection.execute(sa.text("UPDATE endpoints SET paused_until = NULL"))\n',
    ),
    Mutant(
        "failures-lost-at-a-start",
        "deliveries have their whole retry schedule again when the daemon starts",
        "bridge/store/nodes.py",
        _AT_A_START,
        _AT_A_START
        + "    tx.connection.execute(sa.text(\"UPDATE deliveries SET failures = 0 WHERE state = 'pending'\"))\n",
    ),
    Mutant(
        "rewritten-at-a-start",
        "the bytes of kept events are written in another way when the daemon starts",
        "bridge/store/nodes.py",
        _AT_A_START,
        _AT_A_START + "    tx.connection.execute(\n"
        '        sa.text("UPDATE events SET body = CAST(replace(CAST(body AS TEXT), \'\\",\\"\', \'\\", \\"\') AS BLOB)")\n'
        "    )\n",
    ),
    Mutant(
        "retry-after-in-minutes",
        "the seconds of a receiver's Retry-After are taken for minutes",
        "bridge/domain/delivery.py",
        "        return min(float(text), RETRY_AFTER_MAX_S)",
        "        return min(float(text) * 60, RETRY_AFTER_MAX_S)",
    ),
    Mutant(
        "retry-after-in-milliseconds",
        "the seconds of a provider's Retry-After are taken for milliseconds",
        "bridge/providers/retry_after.py",
        "        pause_s = _number(wanted)\n",
        "        pause_s = (_number(wanted) or 0.0) / 1000\n",
    ),
    Mutant(
        "reload-makes-due",
        "a reload makes every retry of the endpoints in the file due at once",
        "bridge/store/endpoints.py",
        "    if before.ordered and not endpoint.ordered and before.enabled:\n        release_pending(tx, endpoint.id)",
        '    tx.connection.execute(sa.text("UPDATE deliveries SET next_attempt_at = :now WHERE next_attempt_at IS NOT NULL "\n'
        '        "AND endpoint_id = :id"), {"now": round(tx.now.timestamp() * 1e6), "id": endpoint.id})',
    ),
    Mutant(
        "reload-forgets-pauses",
        "a reload ends the pauses that the endpoints in the file asked for",
        "bridge/store/endpoints.py",
        "    reset = {} if before.url == endpoint.url else _HEALTHY",
        "    reset = _HEALTHY",
    ),
    Mutant(
        "off-and-discarded",
        "what waits for an endpoint is discarded when it is switched off",
        "bridge/store/endpoints.py",
        "    change_listeners(tx)\n    hold_pending(tx, endpoint_id)\n",
        "    change_listeners(tx)\n    discard_pending(tx, endpoint_id)\n",
    ),
    Mutant(
        "failed-one-is-skipped",
        "a new event does not wait for one before it that has failed, where order is asked for",
        "bridge/store/events.py",
        '        lambda earlier: (earlier.c.endpoint_id == row["endpoint_id"], earlier.c.sequence < row["sequence"]),',
        "        lambda earlier: (\n"
        '            earlier.c.endpoint_id == row["endpoint_id"],\n'
        '            earlier.c.sequence < row["sequence"],\n'
        "            earlier.c.attempts == 0,\n"
        "        ),",
    ),
    Mutant(
        "replay-goes-back",
        "the next batch of a replay begins with what the one before had",
        "bridge/store/replays.py",
        '        values["position"] = rows[-1].position',
        '        values["position"] = rows[len(rows) // 2].position',
    ),
    Mutant(
        "listeners-not-read-again",
        "an endpoint that is made or switched on gets nothing before the next start",
        "bridge/store/endpoints.py",
        "    tx.cache.pop(_SHARED_KNOWN, None)\n    tx.cache.pop(QUIET, None)",
        "    tx.cache.pop(QUIET, None)",
    ),
    Mutant(
        "claimed-twice",
        "what is being sent is claimed again when it is due",
        "bridge/store/deliveries.py",
        '        deliveries.c.leased_by.is_(None),\n        deliveries.c.next_attempt_at <= sa.bindparam("now"),',
        '        deliveries.c.next_attempt_at <= sa.bindparam("now"),',
    ),
    Mutant(
        "failing-gets-nothing",
        "an endpoint that fails is not owed what is recorded then",
        "bridge/store/events.py",
        "            if wants_event(tx, endpoint, event):",
        "            if endpoint.failing_since is None and wants_event(tx, endpoint, event):",
    ),
    Mutant(
        "attempts-left-behind",
        "retention leaves the attempts of the deliveries that it deletes",
        "bridge/store/retention.py",
        "        deleter.delete(attempts, attempts.c.delivery_id.in_(plan.deliveries))\n        and ",
        "        ",
    ),
    Mutant(
        "tags-left-behind",
        "retention leaves the tags of the runs that it deletes",
        "bridge/store/retention.py",
        "        and deleter.delete(run_tags, run_tags.c.run_id.in_(gone))\n",
        "",
    ),
    Mutant(
        "kept-half-as-long",
        "settled runs are deleted after half the time",
        "bridge/maintenance/retention.py",
        "        before = self._clock.now() - timedelta(seconds=self.settings.keep_s)",
        "        before = self._clock.now() - timedelta(seconds=self.settings.keep_s / 2)",
    ),
    Mutant(
        "limit-saved-up",
        "an endpoint with a rate limit gets what it did not use of it in many seconds at once",
        "bridge/delivery/limiter.py",
        "min(max(1.0, rate), self.tokens + rate * passed_s)",
        "min(max(6.0, rate), self.tokens + rate * passed_s)",
    ),
    Mutant(
        "lost-leases-stay",
        "a lease whose commit reported an error and happened is never released",
        "bridge/polling/run_leases.py",
        "        if lost := sorted(astray & seen_before):",
        "        if lost := sorted(astray & set()):",
    ),
)
