"""The runs of one connection that this node holds: acquire, keep or release, and compare with the database.

A run is held in the schedule for as long as its lease is ours. A release is gathered for a moment. So are a pause that
the provider asked for and the reason why a run cannot be read: the run stays held, but a node that takes it over after a
kill must find both in the database.

With several nodes each acquires a fair part of what is due at a time, and what a node holds in memory can become wrong:
another node deleted or settled a run, or a commit succeeded whose answer was lost with the connection.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Final

from bridge.domain.errors import StoreUnavailable
from bridge.domain.run import Run
from bridge.polling.connection_client import ConnectionClient
from bridge.polling.schedule import PollSchedule, TrackedRun
from bridge.polling.services import PollingServices
from bridge.runtime.loop import Bell
from bridge.store import run_leases
from bridge.store.run_leases import PollRecord
from bridge.store.runs import LeaseOffer
from bridge.store.transaction import Tx

HORIZON_S: Final = 15.0  # runs due within this are acquired; those due later stay in the database
SOON_S: Final = 1.0  # a writing transaction is begun only for a run that is due within this
HELD_MAX: Final = 20_000
KEEP_S: Final = 30.0  # a run due within this stays held between polls …
KEPT_MAX: Final = 2_000  # … and any, to be planned again when others end, while no more than these are held
ACQUIRED_MAX: Final = 1_000  # at once
ACQUIRE_GAP_S: Final = 0.008  # from one acquisition to the next, so that many registrations share one
PLENTY: Final = 5_000  # with so many runs held and some overdue, as after an outage, others stay in the database …
PLENTY_GAP_S: Final = 1.0  # … for this long from one acquisition to the next
AHEAD_S: Final = 0.25  # before the limiter opens: what cannot be polled yet stays in the database until then
UNHEARD_S: Final = 5.0  # between two searches for runs that other nodes have released, which rings no bell here
ALONE_S: Final = 3600.0
COMPARE_EVERY_S: Final = 20.0  # as long as a dead node's leases last; also at once after the database was away
COMPARE_AGAIN_S: Final = 1.0
GATHER_S: Final = 1.0  # how long releases are gathered for one write
GATHER_PAUSES_S: Final = 0.1  # a pause that is not written yet is lost with the process
STORE_RETRY_S: Final = 5.0


class RunLeases:
    """The leases of one connection and one node. Times are monotonic seconds.

    `bell` is rung when something from outside is to be polled or acquired.
    """

    def __init__(
        self, client: ConnectionClient, schedule: PollSchedule, services: PollingServices, *, bell: Bell, node: str
    ) -> None:
        self._bell = bell
        self._schedule = schedule
        self._client, self._limiter = client, client.limiter
        self._node = node
        self._connection = client.connection.name
        self._database, self._clock, self._lease_guard = services.database, services.clock, services.lease_guard
        self._is_alone = services.database.is_sqlite
        self._expects_due = True
        self._acquire_due = 0.0
        self._acquired_at = -math.inf
        self._compare_due = 0.0
        self._astray: set[str] = set()
        """Leased to this node but not held, when last compared."""
        self._releasing: dict[str, TrackedRun] = {}
        self._kept: dict[str, TrackedRun] = {}
        self._writing: list[TrackedRun] = []
        self._flush_due = math.inf
        self._is_closed = False

    def close(self) -> None:
        """Take no more runs; those held are released when they are planned next."""
        self._is_closed = True

    # -- acquiring

    def expect(self) -> None:
        """Acquire at once: a run became due in the database."""
        self._expects_due = True
        self._bell.ring()

    @property
    def is_held_up(self) -> bool:
        """Whether a run that is due in the database waits there for the limiter."""
        return self._expects_due

    def rest_s(self, now: float) -> float:
        """Seconds until something is to be acquired or written."""
        return min(self._acquire_in_s(now), self._flush_due - now, self._compare_due - now)

    def _acquire_in_s(self, now: float) -> float:
        if len(self._schedule) >= HELD_MAX:
            return math.inf  # until a poll ends
        has_plenty = len(self._schedule) >= PLENTY and self._schedule.has_overdue(now)
        gap_s = PLENTY_GAP_S if has_plenty else ACQUIRE_GAP_S
        wanted_at = max(self._acquired_at + gap_s, -math.inf if self._expects_due else self._acquire_due)
        if self._limiter.is_shut:
            return wanted_at - now
        return max(wanted_at, self._limiter.rate_limit.opens_at - AHEAD_S) - now

    async def acquire(self) -> None:
        """Lease what is due soon, if it is time to ask, or release all while the limits leave us nothing.

        Raises StoreUnavailable.
        """
        await self._compare(self._clock.monotonic())
        now = self._clock.monotonic()
        if self._acquire_in_s(now) <= 0:
            expected, self._acquired_at = self._expects_due, now
            self._expects_due = False  # before asking: a run that becomes due during it counts for the next pass
            if self._limiter.is_shut:
                self._acquire_due = now + UNHEARD_S
            else:
                try:
                    await self._lease_due(now, is_expected=expected)
                except StoreUnavailable:
                    self._expects_due = True
                    raise
        if self._limiter.is_shut:
            self.release_all()

    async def _lease_due(self, now: float, *, is_expected: bool) -> None:
        limit = min(ACQUIRED_MAX, HELD_MAX - len(self._schedule))
        sharers = self._limiter.sharers

        def claim(tx: Tx) -> tuple[list[Run], datetime | None, datetime]:
            until = tx.now + timedelta(seconds=HORIZON_S)
            found = run_leases.acquire_due(
                tx, node=self._node, connection=self._connection, until=until, limit=limit, sharers=sharers
            )
            return list(found), run_leases.next_due_at(tx, self._connection), tx.now

        leased: list[Run] = []
        at = self._clock.now()
        due_at = (
            None if is_expected else await self._database.read(lambda tx: run_leases.next_due_at(tx, self._connection))
        )
        if is_expected or (due_at is not None and due_at <= at + timedelta(seconds=SOON_S)):
            leased, due_at, at = await self._database.write(claim)
        wait_s = math.inf if due_at is None else (due_at - at).total_seconds()
        longest_s = ALONE_S if self._is_alone else UNHEARD_S
        self._acquire_due = now + max(0.0 if len(leased) == limit else 0.05, min(wait_s, longest_s))
        for run in leased:
            due = now + ((run.next_poll_at or at) - at).total_seconds()
            self._schedule.add(TrackedRun(run, due, now=at, monotonic=now))

    def take(self, run: Run) -> None:
        """Hold a run that was registered under our lease, due now."""
        if not self._is_closed:
            now = self._clock.monotonic()
            self._schedule.add(TrackedRun(run, now, now=self._clock.now(), monotonic=now))
            self._bell.ring()

    def offer(self) -> LeaseOffer | None:
        """The number of runs that would be polled at once if they were registered now; None if none.

        None while others wait in the database, for the limiter or for their turn; with several nodes also while some
        that are held wait, because another node may be free. Requests that come together are offered the same room.
        """
        now = self._clock.monotonic()
        waits = self._expects_due or self._acquire_due <= now or self._limiter.rate_limit.opens_at - AHEAD_S > now
        is_busy, sharers = self._schedule.has_overdue(now) or self._schedule.ready_count > 0, self._limiter.sharers
        held_max = HELD_MAX if not is_busy else PLENTY if sharers == 1 else 0
        room = held_max - len(self._schedule)
        is_closed = self._is_closed or not self._lease_guard.is_open
        if waits or is_closed or self._limiter.is_shut or room <= 0:
            return None
        return LeaseOffer(self._node, room, sharers)

    # -- comparing

    def doubt(self) -> None:
        """Compare at once and search for due runs: a commit may have succeeded although its answer was lost."""
        self._compare_due = 0.0
        self._expects_due = True

    async def _compare(self, now: float) -> None:
        """Forget the runs that are held here without a lease; free what is leased to this node but not held.

        A lease is freed when two comparisons in a row have found it without its run, because a new run may be leased
        before it is held. Without other nodes this is done only once: a poller that a reload ended may have left leases
        that it was acquiring or could not release.
        """
        if now < self._compare_due:
            return
        self._compare_due = math.inf if self._is_alone else now + COMPARE_EVERY_S
        held = self._held()
        leased = await self._database.read(
            lambda tx: run_leases.list_leased(tx, node=self._node, connection=self._connection)
        )
        astray, seen_before = leased - held - self._held(), self._astray
        self._astray = astray - seen_before
        if self._astray:
            self._compare_due = now + COMPARE_AGAIN_S
        if lost := sorted(astray & seen_before):
            await self._database.write(lambda tx: run_leases.release(tx, node=self._node, run_ids=lost))
            self._expects_due = True
        for run_id in held - leased:
            self.forget(run_id)

    def _held(self) -> set[str]:
        return {tracked.run.id for tracked in self._schedule.all()} | self._releasing.keys()

    # -- what is held

    def find(self, run_id: str) -> TrackedRun | None:
        """The run as this node has it in memory, fresher than the database, until its release is written."""
        return self._schedule.get(run_id) or self._releasing.get(run_id)

    def poll_now(self, run_id: str) -> None:
        """Poll a run at once, whatever its plan says, also where its release is not written yet."""
        if (tracked := self._schedule.get(run_id)) is not None:
            self._schedule.poll_now(tracked, "asked for")
        elif (tracked := self._releasing.get(run_id)) is not None:
            tracked.plan(self._clock.monotonic(), self._clock.now(), "asked for")
            self._release(tracked, tracked.due)
        self.expect()

    def rebase(self, jump_s: float) -> None:
        """Follow a jump of the wall clock: ages go on as they were, and runs that span the jump teach nothing."""
        for tracked in (*self._schedule.all(), *self._releasing.values(), *self._writing):
            tracked.rebase(jump_s)
        self.expect()

    def rebalance(self) -> None:
        """Release every run, so that each node acquires its part: the number of nodes has changed."""
        self.release_all()
        self.expect()

    def keep_or_release(self, tracked: TrackedRun, delay_s: float, *, is_listed: bool) -> None:
        """Hold a run that is planned `delay_s` ahead, or release it.

        The pause that the provider asked for and the error of a run that stays held are saved. A run that lists show is
        held, however late it is due.
        """
        now = self._clock.monotonic()
        is_near = delay_s <= KEEP_S or len(self._schedule) <= KEPT_MAX or is_listed
        if not is_near or self._is_closed or self._limiter.is_shut:
            self._release(tracked, now + GATHER_S)
            return
        is_paused = max(tracked.not_before, tracked.retry_at) > now + GATHER_S
        if is_paused or tracked.has_unsaved_error:
            self._kept[tracked.run.id] = tracked
            self._flush_due = min(self._flush_due, now + (GATHER_PAUSES_S if is_paused else GATHER_S))
        else:
            self._kept.pop(tracked.run.id, None)

    def release_all(self) -> None:
        """Release every run but those whose poll is under way, which are released after it or at the next call."""
        for tracked in self._schedule.all():
            if not tracked.is_in_flight:
                self._release(tracked, self._clock.monotonic())

    def _release(self, tracked: TrackedRun, due: float) -> None:
        """Write the end of the lease, with what was counted, by `due`."""
        self.forget(tracked.run.id)
        self._releasing[tracked.run.id] = tracked
        self._flush_due = min(self._flush_due, due)

    def forget(self, run_id: str) -> None:
        """Remove a run from memory and write nothing: it is settled, was removed, or is not ours."""
        self._schedule.remove(run_id)
        self._client.forget_run(run_id)
        self._releasing.pop(run_id, None)
        self._kept.pop(run_id, None)

    async def flush(self, now: float) -> None:
        """Write what is due to be written by `now`. StoreUnavailable: it is written later."""
        if now < self._flush_due:
            return
        releasing, kept = self._releasing, self._kept
        self._releasing, self._kept, self._flush_due = {}, {}, math.inf
        self._writing = list(releasing.values())
        try:
            await self._write(self._writing, [each for each in kept.values() if self._schedule.holds(each)])
        except BaseException:  # also when the loop is cancelled during the write
            self._releasing, self._kept = releasing | self._releasing, kept | self._kept
            self._flush_due = now + STORE_RETRY_S
            raise
        finally:
            self._writing = []
        self._acquire_due = min([self._acquire_due, *(tracked.due for tracked in releasing.values())])

    async def _write(self, releasing: list[TrackedRun], kept: list[TrackedRun]) -> None:
        records: list[PollRecord] = []

        def write(tx: Tx) -> None:  # as they are now: the wall clock may be set while this waits for its turn
            records[:] = [each.record() for each in kept]
            run_leases.save_polls(tx, node=self._node, records=[each.record() for each in releasing])
            run_leases.save_polls(tx, node=self._node, records=records, keep_lease=True)

        if releasing or kept:
            await self._database.write(write)
        for tracked, record in zip(kept, records, strict=True):
            tracked.note_saved(record)
