"""Planted faults in what happens to runs, and in the database. `mutants` has all of them."""

from __future__ import annotations

from typing import Final

from tests.simulation.mutant import Mutant

OF_RUNS: Final = (
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
        "provider-pause-ignored",
        "a provider is asked before the pause is over that it asked for",
        "bridge/polling/connection_client.py",
        "            case FailureKind.THROTTLED | FailureKind.SERVER_ERROR:\n                self.limiter.refuse(",
        "            case FailureKind.THROTTLED | FailureKind.SERVER_ERROR:\n"
        "                self.limiter.answer(now, sent_at=sent_at)\n            case None:\n                self.limiter.refuse(",
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
        "never-recovered",
        "a connection that answers again stays failing",
        "bridge/polling/connection_client.py",
        "        if is_over or self.health is ConnectionHealth.UNKNOWN:",
        "        if self.health is ConnectionHealth.UNKNOWN:",
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
    Mutant(
        "found-by-id-alone",
        "a run is taken for the run of another connection that has its id",
        "bridge/store/runs.py",
        '    runs.c.connection == sa.bindparam("of_connection"),\n',
        '    sa.bindparam("of_connection", type_=sa.Text) != "",\n',
    ),
    Mutant(
        "registered-again-is-new",
        "a run that has ended and is registered again is a new run",
        "bridge/api/runs.py",
        "and (one.body.rewatch or run.status.is_our_verdict)",
        "and (one.body.rewatch or run.settled)",
    ),
    Mutant(
        "cancel-believed",
        "a run is cancelled as soon as its provider says that it will be",
        "bridge/api/runs.py",
        "    return await poll_run(context, request)\n\n\nasync def delete_run",
        "    from bridge.domain import transition\n"
        "    from bridge.domain.run import RunError, RunStatus\n\n"
        "    def settle(tx: Tx) -> None:\n"
        "        run = _unsettled(tx, request.id())\n"
        '        decision = transition.settle(run, RunStatus.CANCELLED, RunError("cancelled"), now=tx.now)\n'
        "        runs.record_decision(tx, run, decision, node=None, keep_lease=False)\n\n"
        "    await context.database.write(settle)\n"
        "    return Response(202)\n\n\nasync def delete_run",
    ),
    Mutant(
        "sequence-reused",
        "a run without a lease gives the number of its last event to the next one, too",
        "bridge/store/run_rows.py",
        "    run = _read(row)\n",
        "    run = _read(row)\n"
        "    run = run if row.next_poll_at is None else replaced(run, sequence=max(0, run.sequence - 1))\n",
    ),
    Mutant(
        "limit-of-each-connection",
        "connections that share a credential have a limit each",
        "bridge/polling/pollers.py",
        "            if (other.provider, other.base_url, other.api_key) == (",
        "            if other.name == connection.name and (other.provider, other.base_url, other.api_key) == (",
    ),
    Mutant(
        "moved-twice",
        "due times are moved twice when the wall clock is set",
        "bridge/store/clock_shift.py",
        "    _move(tx, (*_DUE, *_COUNTED), seconds)",
        "    _move(tx, (*_DUE, *_DUE, *_COUNTED), seconds)",
    ),
    Mutant(
        "key-ignored",
        "a request that is repeated with its key is done again",
        "bridge/api/serving.py",
        "        kept = await context.find_kept(key.key)",
        "        kept = None",
    ),
    Mutant(
        "leased-not-counted",
        "what is just being sent counts as delivered",
        "bridge/store/deliveries.py",
        '    for condition in (_IS_INDEXED, deliveries.c.leased_by > ""):\n        found.update',
        "    for condition in (_IS_INDEXED,):\n        found.update",
    ),
    Mutant(
        "asked-too-often",
        "a run is polled again before min_interval is over",
        "bridge/polling/planner.py",
        "        due = max(tracked.sent_at + max(plan.delay_s, settings.min_interval_s), tracked.not_before)",
        "        due = max(tracked.sent_at + plan.delay_s / 4, tracked.not_before)",
    ),
    Mutant(
        "expired-while-waiting",
        "the time that a run waits for a person counts for its deadline",
        "bridge/domain/transition.py",
        "    return run.deadline_at + (now - since)",
        "    return run.deadline_at",
    ),
)
