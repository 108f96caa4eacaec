"""The promises about webhooks: recipients, number, order, signatures, and not before their time."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING, Any, Final

from tests.simulation.troubles import PROVIDER_PAUSE_S
from tests.simulation.world import CANARY, CONFIGURED, SECRET

if TYPE_CHECKING:
    from tests.simulation.world import Arrival, World

EARLY_S: Final = 1.0  # a pause of whole seconds counts from the response; the receiver's clock began a little earlier
POST_S: Final = 16.0  # the timeout of a POST, and a moment to record it
PROMPT_S: Final = 5.0
RECOVERED_S: Final = 900.0  # the longest delay of a retry, after which an endpoint is used as before
RECORDED_S: Final = 2.0  # in virtual time; what is recorded stays over a restart
CLAIMED_S: Final = POST_S + 10  # what was claimed before a change may still be sent so long


def find_faults(life: World, exhausted: list[Any]) -> list[str]:
    """Every promise about deliveries that was broken; `exhausted`: those that were given up."""
    given_up = {(each["endpoint_id"], each["event_id"]) for each in exhausted}
    return [
        *_deliveries(life, given_up),
        *_webhooks(life, given_up),
        *_replays(life, given_up),
        *_duplicates(life),
        *_at_once(life),
        *_signatures(life),
        *_switched_off(life),
        *_order(life, given_up),
        *_pauses(life),
        *_provider_pauses(life),
        *_rates(life),
        *(_promptness(life) if life.pace == 1 else ()),
    ]


def read_at_s(life: World) -> dict[str, tuple[float, float]]:
    """Between which times each event was recorded, by what the feed showed."""
    feed = life.clients.feed
    return {event["id"]: at for event, at in zip(feed.events, feed.read_at_s, strict=True)}


def _wants(life: World, name: str, event: Any) -> bool:
    """Whether this endpoint is to get this event."""
    kind, data = event["type"], event["data"]
    if kind == "bridge.ping":
        return life.clients.pings.get(event["id"]) == name
    if kind.startswith("endpoint.") and data["endpoint"]["id"] in (name, life.clients.endpoint_ids.get(name)):
        return False
    if name in ("finished", "slow"):
        return bool(kind == "run.finished")
    if name == "chosen":
        return data["run"] is not None and data["run"]["metadata"].get("group") == "a"
    return bool(kind != "run.progressed")


def _posts(life: World, name: str) -> defaultdict[str, list[Arrival]]:
    posts: defaultdict[str, list[Arrival]] = defaultdict(list)
    for arrival in life.arrivals[name]:
        posts[arrival.post.id].append(arrival)
    return posts


def _deliveries(life: World, given_up: set[tuple[str, str]]) -> Iterator[str]:
    """Every endpoint took every event that it wants, with the same bytes each time, and nothing that is not recorded."""
    known = {event["id"]: event for event in life.clients.feed.events}
    for name in life.receivers:
        posts = _posts(life, name)
        for event_id, mine in posts.items():
            if event_id not in known:
                yield f"{name} got {event_id}, which is not recorded"
            elif any(arrival.post.event != known[event_id] for arrival in mine):
                yield f"{name}: {event_id} came with other bytes than the feed shows"
            elif name != "once" and not _wants(life, name, known[event_id]):
                yield f"{name} got {known[event_id]['type']}, which it does not want"
            if len({arrival.post.body for arrival in mine}) > 1:
                yield f"{name}: {event_id} came with different bytes"
        for event_id, event in known.items():
            is_given_up = (life.clients.endpoint_ids.get(name, name), event_id) in given_up
            is_given_up |= _may_be_deleted(life, len(posts[event_id]))
            if name == "once" or is_given_up or not _wants(life, name, event) or not _is_owed(life, name, event):
                continue
            if not any(arrival.post.status == 204 for arrival in posts[event_id]):
                yield f"{name} never got {event['type']} {event_id} ({len(posts[event_id])} tries)"


def _may_be_deleted(life: World, tries: int) -> bool:
    """Whether a delivery with so many attempts was perhaps given up and then deleted with its run."""
    return life.keeps_s is not None and tries > len(life.retry_schedule)


def _is_owed(life: World, name: str, event: Any) -> bool:
    """Not what was recorded before an endpoint was made, or perhaps while it was off and was deleted before it came back."""
    if name in life.clients.endpoint_ids and event["data"]["run"] is None:
        return event["type"] == "bridge.ping"
    if name == "switched" and (life.keeps_s is not None or life.has_nodes):
        from_s, until_s = read_at_s(life)[event["id"]]
        return not any(off_s <= until_s and from_s <= on_s for off_s, on_s in life.clients.maybe_off)
    return True


def _webhooks(life: World, given_up: set[tuple[str, str]]) -> Iterator[str]:
    """A run's own webhook gets its end, and nothing else."""
    for entry in life.clients.registrations:
        if entry.webhook is None or entry.run_id is None:
            continue
        mine = [arrival.post for arrival in life.arrivals["once"] if arrival.post.path == entry.webhook]
        if any(post.type != "run.finished" or post.event["data"]["run"]["id"] != entry.run_id for post in mine):  # type: ignore[index,call-overload]
            yield f"{entry.webhook} got what is not the end of {entry.run_id}"
        is_given_up = any((entry.webhook_id, event_id) in given_up for event_id in {post.id for post in mine})
        is_given_up |= _may_be_deleted(life, len(mine))
        if entry.removed_after is None and not is_given_up and not any(post.status == 204 for post in mine):
            yield f"{entry.webhook} never got the end of {entry.run_id} ({len(mine)} tries)"


def _replays(life: World, given_up: set[tuple[str, str]]) -> Iterator[str]:
    """Replayed events arrived again."""
    recorded, known = read_at_s(life), {event["id"]: event for event in life.clients.feed.events}
    removed = {entry.run_id for entry in life.clients.registrations if entry.removed_after is not None}
    for name, at_s in ((name, at_s) for name, times in life.clients.replayed_at_s.items() for at_s in times):
        if name != "chosen":
            continue
        again = {it.post.id for it in life.arrivals[name] if it.at_s > at_s - 60 and it.post.status == 204}
        for event_id, event in known.items():
            _, until_s = recorded[event_id]
            is_removed = event["data"]["run"] is None or event["data"]["run"]["id"] in removed  # kept by the wall clock
            is_kept = life.keeps_s is None or (until_s > at_s - life.keeps_s + 60 and not is_removed)
            if (
                event["data"]["run"]
                and until_s < at_s - 60
                and is_kept
                and _wants(life, name, event)
                and event_id not in again
            ):
                yield f"{event_id} was to be replayed to {name} and did not come again"


def _duplicates(life: World) -> Iterator[str]:
    """An accepted webhook does not come again, unless its answer or the record of it may have been lost."""
    was = life.was
    for name in ("orderly", "plain", "finished", "slow"):
        for event_id, mine in _posts(life, name).items():
            taken = [arrival for arrival in mine if arrival.post.status == 204]
            for first, again in pairwise(taken):
                at_s, until_s = first.at_s, first.at_s + POST_S
                is_excused = (
                    was(at_s - 3, until_s, "network", name=name)
                    or was(at_s, until_s + 20, "down", "disk")
                    or was(at_s - 1, at_s, "receiver", name=name)
                )
                if not is_excused:
                    yield f"{name} took {event_id} and got it again after {again.at_s - at_s:.1f} s"


def _at_once(life: World) -> Iterator[str]:
    """A delivery is not sent twice at once, and not again before the first delay of the schedule."""
    first_s = seconds_of(life.retry_schedule[0]) * 0.8
    for name, arrivals in life.arrivals.items():
        posts: defaultdict[tuple[str, str], list[Arrival]] = defaultdict(list)
        for arrival in arrivals:
            posts[arrival.post.path, arrival.post.id].append(arrival)
        for (_, event_id), mine in posts.items():
            for first, again in pairwise(mine):
                at_s, until_s = first.at_s, again.at_s
                is_excused = (
                    life.was(at_s - POST_S, until_s, "down", "disk", "network")
                    or any(at_s - 90 < by_hand_s <= until_s for by_hand_s in life.clients.by_hand_at_s)
                    or name in life.clients.replayed_at_s
                    or name == "switched"  # to enable it makes what waits due
                )
                if until_s - at_s < first_s and not is_excused:
                    yield f"{name} got {event_id} again after {until_s - at_s:.1f} s"


def seconds_of(text: str) -> float:
    """`20s` or `3m` in seconds."""
    return float(text[:-1]) * {"s": 1.0, "m": 60.0}[text[-1]]


def _signatures(life: World) -> Iterator[str]:
    """Each POST is signed with every secret of the endpoint that counts, over its bytes, and with no other."""
    periods = list(_secret_periods(life))
    for name, arrivals in life.arrivals.items():
        for arrival in arrivals:
            given = arrival.post.headers.get("webhook-signature", "").split()
            if name == "switched":
                for secret, from_s, until_s, over_s in periods:
                    signs = _signature(secret, arrival) in given
                    if signs and arrival.at_s > over_s + CLAIMED_S:
                        yield f"{name}: {arrival.post.id} is signed with a secret that no longer counts"
                    if not signs and from_s + CLAIMED_S < arrival.at_s < until_s - CLAIMED_S:
                        yield f"{name}: {arrival.post.id} is not signed with a secret that counts"
                if not arrival.post.verified and life.clock.wall_offset_s == 0:
                    yield f"{name}: a signature that does not verify: {arrival.post.id}"
            elif given != [_signature(SECRET if name in CONFIGURED else CANARY, arrival)]:
                yield f"{name}: a signature that does not verify: {arrival.post.id}"


def _secret_periods(life: World) -> Iterator[tuple[str, float, float, float]]:
    """The secrets of `switched`: since when and until when each surely signs, and when it surely no longer does."""
    rotations = life.clients.rotations
    from_s, secrets = 0.0, [CANARY, *(rotation.new for rotation in rotations)]
    for number, (secret, rotation) in enumerate(zip_longest(secrets, rotations)):
        until_s = over_s = float("inf")
        if rotation is not None:
            until_s, over_s = rotation.asked_at_s + rotation.overlap_s, rotation.at_s + rotation.overlap_s
        for later in rotations[number:]:
            if later.overlap_s == 0:  # it ends all of them
                until_s, over_s = min(until_s, later.asked_at_s), min(over_s, later.at_s)
        yield secret, from_s, until_s, over_s
        from_s = rotation.at_s if rotation is not None else from_s


def _signature(secret: str, arrival: Arrival) -> str:
    headers = arrival.post.headers
    key = base64.b64decode(secret.removeprefix("whsec_"))
    said = f"{headers.get('webhook-id')}.{headers.get('webhook-timestamp')}.".encode() + arrival.post.body
    return "v1," + base64.b64encode(hmac.new(key, said, hashlib.sha256).digest()).decode()


def _switched_off(life: World) -> Iterator[str]:
    """An endpoint that is switched off gets nothing; what was under way may still arrive."""
    for off_s, on_s in life.clients.off:
        late = [it for it in life.arrivals["switched"] if off_s + POST_S < it.at_s < on_s]
        yield from (f"switched got {it.post.id} {it.at_s - off_s:.0f} s after it was switched off" for it in late)


def _order(life: World, given_up: set[tuple[str, str]]) -> Iterator[str]:
    """Where order is asked for, an event of a run comes only after the one before it was taken."""
    taken: defaultdict[str, set[int]] = defaultdict(set)
    tries: defaultdict[str, int] = defaultdict(int)
    for arrival in life.arrivals["orderly"]:
        tries[arrival.post.id] += 1
        data: Any = arrival.post.event["data"]
        if data["run"] is None:
            continue
        run_id, sequence = data["run"]["id"], data["sequence"]
        was_given_up = any(endpoint == "orderly" for endpoint, _ in given_up)
        if was_given_up or _may_be_deleted(life, max(tries.values())):
            return  # what is given up lets the next one go
        if missing := set(range(1, sequence)) - taken[run_id]:
            yield f"orderly: {arrival.post.id} is number {sequence} of {run_id} and came before {sorted(missing)}"
        if arrival.post.status == 204:
            taken[run_id].add(sequence)


# -- pauses, limits, resources


def _pauses(life: World) -> Iterator[str]:
    """No delivery is tried again, and none is begun at all, before the end of a Retry-After; a person may send at once."""
    for name, arrivals in life.arrivals.items():
        until: dict[str, float] = {}
        closed: list[tuple[float, float]] = []
        for arrival in arrivals:
            post, at_s = arrival.post, arrival.at_s
            is_by_hand = any(at_s - 90 < by_hand_s <= at_s for by_hand_s in life.clients.by_hand_at_s)
            if at_s < until.get(post.id, 0.0) - EARLY_S and not is_by_hand:
                yield f"{name}: {post.id} came {until[post.id] - at_s:.1f} s before the end of its Retry-After"
            if any(from_s + EARLY_S < at_s < until_s - EARLY_S for from_s, until_s in closed) and not is_by_hand:
                yield f"{name}: {post.id} was sent while it had asked for a pause"
            pause_s = life.pauses_s.get(post.status or 0)
            if pause_s and not _was_unrecorded(life, at_s, pause_s, name):
                until[post.id] = at_s + pause_s
                if name not in ("once", "switched"):  # each path is an endpoint; enabling one resets its pauses
                    closed = [*closed[-5:], (at_s, at_s + pause_s)]


def _was_unrecorded(life: World, at_s: float, pause_s: float, name: str) -> bool:
    """Whether the answer that asked for a pause, or the record of it, may have been lost."""
    until_s = at_s + (RECORDED_S if life.pace == 1 else pause_s)
    return life.was(at_s - 3, until_s, "network", name=name) or life.was(at_s - 3, until_s, "down", "disk")


def _provider_pauses(life: World) -> Iterator[str]:
    """A provider is not asked before the end of the pause that it asked for, but for what was under way."""
    asked: defaultdict[str, list[tuple[float, Any]]] = defaultdict(list)
    for at_s, seen in life.requests:
        asked[seen.provider].append((at_s, seen))
    for provider, requests in asked.items():
        for at_s in (at_s for at_s, seen in requests if seen.fault == "429"):
            if _was_unrecorded(life, at_s, PROVIDER_PAUSE_S, "providers"):
                continue
            early = [s for s, _ in requests if at_s + EARLY_S < s < at_s + PROVIDER_PAUSE_S - EARLY_S]
            yield from (f"{provider} was asked {s - at_s:.1f} s after it asked for a pause of 7 s" for s in early)


def _rates(life: World) -> Iterator[str]:
    """No endpoint and no provider gets more in any time than its limit."""
    pinged = life.clients.pings
    slow = [it.at_s for it in life.arrivals["slow"] if it.post.id not in pinged]
    asked = [at_s for at_s, seen in life.requests if seen.provider == "instabase"]
    for name, times, per_s in (("slow", slow, life.slow_per_s), ("instabase", asked, life.instabase_per_s)):
        for start, from_s in enumerate(times):
            for count, until_s in enumerate(times[start : start + 40], start=1):
                most = 2.0 + per_s * (until_s - from_s + 3) + per_s
                if count > most and not life.was(from_s - 20, until_s, "down", "network"):
                    yield f"{name} got {count} requests in {until_s - from_s:.1f} s"
                    return


def _promptness(life: World) -> Iterator[str]:
    """Where nothing is or was wrong for long, an event is sent within seconds."""
    set_at_s = [at_s for at_s, _ in life.clock.settings[1:]]
    for name in ("plain", "finished"):
        posts = _posts(life, name)
        for event in life.clients.feed.events:
            times = life.clock.times_of(datetime.fromisoformat(event["timestamp"]).timestamp())
            if not posts[event["id"]] or len(times) != 1:
                continue
            at_s, first_s = times[0], posts[event["id"]][0].at_s
            is_excused = (
                life.was(at_s - RECOVERED_S, first_s, "receiver", "network", name=name)
                or life.was(at_s - 60, first_s, "down", "disk")
                or any(at_s - 60 < s < first_s for s in set_at_s)
            )
            if first_s > at_s + PROMPT_S and not is_excused:
                yield f"{name} got {event['type']} {event['id']} only after {first_s - at_s:.1f} s"
