"""Alerts: messages to people about trouble, one per edge, grouped, with what to do.

Each channel reads what was recorded after its own cursor and moves it once the message is sent: a channel that cannot be reached
loses nothing, and neither does a crash. A full disk keeps cursors from being saved, so alerts about it are sent from memory.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final, assert_never

import structlog

from bridge.domain.alert import Alert, AlertChannel, AlertEvent, ChannelTest
from bridge.domain.clock import Clock
from bridge.domain.errors import InvalidInput, Problem, StoreUnavailable
from bridge.domain.event import EventType
from bridge.domain.suggestions import unknown
from bridge.maintenance.alert_channels import Message, SendMessage
from bridge.runtime.metrics import Metrics
from bridge.store import alerts
from bridge.store.alerts import AlertCursor, Edges
from bridge.store.database import Database

log: Final = structlog.get_logger()
EVERY_S: Final = 5.0
GATHER_S, GATHER_MAX_S = 60.0, 300.0  # between two messages of a channel; doubled while there is always more to tell
RETRY_FIRST_S, RETRY_MAX_S = 30.0, 900.0
SHOWN_MAX: Final = 20  # in one message
REASON_CHARACTERS_MAX: Final = 300
SAVE_AFTER_EVENTS: Final = 1_000
SAVE_AFTER: Final = timedelta(hours=1)
DISK_FULL_BYTES: Final = 200 * 1024**2
DISK_ROOM_BYTES: Final = 2 * DISK_FULL_BYTES
TEST_MESSAGE: Final = Message(
    "runbridge: a test", f"This channel works. Nothing needs to be done.\n\nrunbridge on {socket.gethostname()}\n"
)


@dataclass(slots=True)
class _ChannelState:
    """The latest message of a channel, and when it may send the next (monotonic)."""

    cursor: AlertCursor | None = None
    saved: AlertCursor | None = None
    disk_was_sent: bool = False
    opens_at: float = 0.0
    gather_s: float = GATHER_S
    failures: int = 0
    failure: str | None = field(default=None)


class Alerter:
    """Owns the channels and how far each has read. `disk_free`: the free bytes of the database's disk, if any."""

    def __init__(
        self, database: Database, clock: Clock, send: SendMessage, metrics: Metrics, disk_free: Callable[[], int | None]
    ) -> None:
        self._database = database
        self._clock = clock
        self._send = send
        self._metrics = metrics
        self._disk_free = disk_free
        self._channels: dict[str, AlertChannel] = {}
        self._states: dict[str, _ChannelState] = {}
        self._disk_is_full = False

    def use(self, channels: Mapping[str, AlertChannel]) -> None:
        """Use these channels from now on; one that stays keeps its place."""
        self._channels = dict(channels)
        self._states = {name: self._states.get(name, _ChannelState()) for name in channels}
        for name in channels:
            for outcome in ("sent", "failed"):
                self._metrics.of(self._metrics.alerts, name, outcome)

    async def test(self, names: Collection[str] | None) -> list[ChannelTest]:
        """Send a test message by each of these channels, or by all; `failures` and cursors stay as they are.

        Raises InvalidInput, with nothing sent, for a name that is not configured.
        """
        if wrong := sorted(set(names or ()) - self._channels.keys()):
            raise InvalidInput([Problem("channels", unknown("channel", wrong[0], list(self._channels)))])
        chosen = {name: one for name, one in self._channels.items() if names is None or name in names}
        said = await asyncio.gather(*(self._send(channel, TEST_MESSAGE) for channel in chosen.values()))
        return [
            ChannelTest(name, channel.kind, failure)
            for (name, channel), failure in zip(chosen.items(), said, strict=True)
        ]

    def failures(self) -> dict[str, str]:
        """The reason of each channel whose latest message failed, by name."""
        return {name: state.failure for name, state in self._states.items() if state.failure}

    def rebase(self, jump_s: float) -> None:
        """Keep what was sent from being sent again when a clock that was set back comes by it once more."""
        for state in self._states.values() if jump_s < 0 else ():
            state.cursor = state.cursor and state.cursor.set_back()

    def forget(self) -> None:
        """Forget the cursors, because another node sends alerts now; they are read again before this node does."""
        for state in self._states.values():
            state.cursor = state.saved = None

    async def run_pass(self) -> float:
        """Send each channel what happened since its cursor; returns the seconds until the next pass."""
        if not self._channels:
            return EVERY_S
        disk = await asyncio.to_thread(self._find_full_disk)
        try:
            await self._read_cursors()
            edges = {name: await self._edges_of(name) for name in list(self._states)}
        except StoreUnavailable:
            await self._send_all({}, disk)  # a full disk is perhaps the reason
            raise
        await self._send_all(edges, disk)
        await self._save_cursors()
        return EVERY_S

    async def _send_all(self, edges: Mapping[str, Edges | None], disk: list[Alert]) -> None:
        channels = [(self._channels[name], self._states[name], name) for name in self._channels]
        await asyncio.gather(*(self._send_to(*each, edges.get(each[2]), disk) for each in channels))

    def _find_full_disk(self) -> list[Alert]:
        free = self._disk_free()
        if free is None:
            return []
        self._disk_is_full = free < (DISK_ROOM_BYTES if self._disk_is_full else DISK_FULL_BYTES)
        if not self._disk_is_full:
            for state in self._states.values():
                state.disk_was_sent = False
            return []
        sentence = f"The disk of the database has {free / 1e6:.0f} MB left."
        return [
            Alert(AlertEvent.DISK_FULL, sentence, "Make room: a full disk stops everything, though nothing is lost.")
        ]

    async def _read_cursors(self) -> None:
        unknown = [name for name, state in self._states.items() if state.cursor is None]
        if not unknown:
            return
        known = await self._database.read(lambda tx: alerts.read_cursors(tx, unknown))
        now = await self._database.read(alerts.cursor_now)
        for name in unknown:
            self._states[name].cursor = known.get(name, now)
            self._states[name].saved = known.get(name)

    async def _edges_of(self, name: str) -> Edges | None:
        state = self._states.get(name)
        if state is None or state.cursor is None or self._clock.monotonic() < state.opens_at:
            return None
        cursor = state.cursor
        return await self._database.read(lambda tx: alerts.read_edges(tx, cursor))

    async def _send_to(
        self, channel: AlertChannel, state: _ChannelState, name: str, edges: Edges | None, disk: list[Alert]
    ) -> None:
        """Send one message about all that the channel wants, if there is any."""
        now = self._clock.monotonic()
        if now < state.opens_at:
            return
        found = [*([] if state.disk_was_sent else disk), *(list_alerts(edges) if edges else ())]
        wanted = [alert for alert in found if alert.event in channel.events]
        if wanted:
            state.failure = await self._send(channel, compose(wanted))
            self._metrics.of(self._metrics.alerts, name, "failed" if state.failure else "sent").inc()
            if state.failure:
                rest_s = min(RETRY_FIRST_S * 2.0 ** min(state.failures, 10), RETRY_MAX_S)
                state.failures, state.opens_at = state.failures + 1, now + rest_s
                log.error("alert.failed", channel=name, alerts=len(wanted), reason=state.failure, again_in_s=rest_s)
                return
            had_to_wait = not state.failures and now - state.opens_at <= EVERY_S
            state.gather_s = min(2 * state.gather_s, GATHER_MAX_S) if had_to_wait else GATHER_S
            state.failures, state.opens_at = 0, now + state.gather_s
            state.disk_was_sent = state.disk_was_sent or bool(disk)
            log.info(
                "alert.sent", channel=name, events=sorted({alert.event.value for alert in wanted}), alerts=len(wanted)
            )
        if edges is not None:
            state.cursor = edges.cursor
            if wanted:
                state.saved = None

    async def _save_cursors(self) -> None:
        due = [(name, state.cursor) for name, state in self._states.items() if state.cursor and _is_due(state)]
        if not due:
            return
        await self._database.write(lambda tx: alerts.save_cursors(tx, due))
        for name, cursor in due:
            if name in self._states:
                self._states[name].saved = cursor


def _is_due(state: _ChannelState) -> bool:
    """Whether to save the cursor: after a message, otherwise from time to time; a restart reads the rest again."""
    assert state.cursor is not None
    if state.saved is None or state.cursor.position - state.saved.position > SAVE_AFTER_EVENTS:
        return True
    return state.cursor.settled_at - state.saved.settled_at > SAVE_AFTER


def list_alerts(edges: Edges) -> list[Alert]:
    """The alerts that these edges amount to, in their order."""
    found = [_of_event(kind, data) for kind, data in edges.events]
    for endpoint, count in sorted(edges.exhausted.items()):
        many = "1 delivery" if count == 1 else f"{count} deliveries"
        where = endpoint or "webhooks of single runs"
        resend = f"runbridge endpoints replay {endpoint}" if endpoint else "runbridge deliveries retry ID"
        remedy = f"`runbridge deliveries list --state exhausted` shows why, `{resend}` sends again."
        found.append(Alert(AlertEvent.DELIVERY_EXHAUSTED, f"{many} to {where} used up the retries.", remedy))
    return found


def _of_event(kind: EventType, data: Mapping[str, Any]) -> Alert:
    event = AlertEvent(kind.value)
    thing: Mapping[str, Any] = data.get("connection") or data.get("endpoint") or {}
    name, reason = _line(thing.get("name") or thing.get("id")), _line(thing.get("reason"))
    why = f": {reason.removesuffix('.')}." if reason else "."
    match event:
        case AlertEvent.CONNECTION_FAILING:
            sentence = f"The connection {name} brings nothing readable{why}"
            remedy = (
                f"Its runs stay watched; `runbridge connections check {name}` makes one call and says what is wrong."
            )
        case AlertEvent.CONNECTION_RECOVERED:
            sentence, remedy = f"The connection {name} answers again.", "Nothing needs to be done."
        case AlertEvent.ENDPOINT_FAILING:
            sentence = f"The endpoint {name} accepts nothing{why}"
            remedy = f"Mend its receiver; `runbridge endpoints show {name}` has its last answer."
        case AlertEvent.ENDPOINT_DISABLED:
            sentence = f"The endpoint {name} is switched off{why}"
            remedy = f"`runbridge endpoints enable {name} --replay-missed` switches it on and sends what it missed."
        case AlertEvent.DELIVERY_EXHAUSTED | AlertEvent.DISK_FULL:
            raise ValueError(f"{kind} is not an event")
        case _:
            assert_never(event)
    return Alert(event, sentence, remedy)


def compose(found: list[Alert]) -> Message:
    """One message about these; its title is the sentence of a single one."""
    found = _joined(found)
    shown = found[:SHOWN_MAX]
    lines = [f"{alert.sentence}\n{alert.remedy}" for alert in shown]
    if len(found) > len(shown):
        lines.append(f"… and {len(found) - len(shown)} more; `runbridge doctor` names everything.")
    title = f"runbridge: {found[0].sentence.partition(': ')[0].removesuffix('.')}"
    if len(found) > 1:
        title = f"runbridge: {len(found)} things need attention"
    return Message(title[:150], "\n\n".join([*lines, f"runbridge on {socket.gethostname()}"]) + "\n")


def _joined(found: list[Alert]) -> list[Alert]:
    """The newest of those about the same, which differ in their reason alone, and how many there were."""
    groups: dict[str, list[Alert]] = {}
    for alert in found:
        about = alert.sentence.partition(": ")[0]
        groups[about] = [*groups.pop(about, ()), alert]
    return [
        same[-1] if len(same) == 1 else replace(same[-1], sentence=f"{same[-1].sentence} ({len(same)} times)")
        for same in groups.values()
    ]


def _line(text: object) -> str:
    """Foreign text on one line, without control characters."""
    plain = "".join(letter if letter.isprintable() else " " for letter in str(text or ""))
    return " ".join(plain.split())[:REASON_CHARACTERS_MAX]
