"""Planted faults where lives do not reach, each with the tests that must notice it: `python -m tests.mutation --planted`.

The guard, alerts, tokens and backups take no part in a life, and several nodes only in real time. The last ones can be
met in a life, and few lives meet them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.simulation.mutant import Mutant

_GUARD: Final = ("tests/domain/addresses/test_policy.py", "tests/delivery/test_address_guard.py")
_ALERTS: Final = ("tests/maintenance/test_alerts.py",)
_CLUSTER: Final = ("tests/cluster", "tests/store/test_nodes.py", "tests/acceptance/test_nodes.py")
_RELOAD: Final = ("tests/acceptance/test_reload.py", "tests/acceptance/test_tokens.py")
_TOKENS: Final = ("tests/acceptance/test_tokens.py", "tests/api/test_sessions.py", "tests/api/test_server.py")
_BACKUPS: Final = ("tests/maintenance/test_backups.py", "tests/store/sqlite")
_POLICY: Final = "bridge/domain/addresses/policy.py"
_DIAL: Final = "bridge/delivery/address_guard.py"
_ALERTER: Final = "bridge/maintenance/alerts.py"
_MEMBERSHIP: Final = "bridge/cluster/membership.py"
_NODES: Final = "bridge/store/nodes.py"
_DAEMON: Final = "bridge/daemon.py"


@dataclass(frozen=True)
class Planted:
    """`tests` are files or folders, in the order in which they are run."""

    mutant: Mutant
    tests: tuple[str, ...]


def _plant(tests: tuple[str, ...], name: str, fault: str, file: str, text: str, instead: str) -> Planted:
    return Planted(Mutant(name, fault, file, text, instead), tests)


PLANTED: Final = (
    _plant(
        _GUARD,
        "metadata-in-a-network",
        "a rule for a whole network opens the cloud metadata addresses in it",
        _POLICY,
        "is_open = any(rule.is_exact for rule in rules)",
        "is_open = bool(rules)",
    ),
    _plant(
        _GUARD,
        "nat64-is-public",
        "an IPv4 address inside a NAT64 one is not judged",
        _POLICY,
        "(address in _MAPPED or address in _NAT64)",
        "address in _MAPPED",
    ),
    _plant(
        _GUARD,
        "port-of-a-rule-ignored",
        "a rule of `allow` for one port opens all ports",
        _POLICY,
        "return address in self.network and self.port in {None, port}",
        "return address in self.network",
    ),
    _plant(
        _GUARD,
        "http-to-anywhere",
        "public addresses get plain http without `allow_http`",
        _POLICY,
        "    if not is_encrypted and not policy.allow_http:",
        "    if not is_encrypted and policy.allow_http is None:",
    ),
    _plant(
        _GUARD,
        "api-is-trusted",
        "an endpoint made over the API is trusted like one of the file",
        _POLICY,
        "return cls.CONFIG if source is EndpointSource.CONFIG else cls.API",
        "return cls.CONFIG",
    ),
    _plant(
        _GUARD,
        "dial-not-judged",
        "an address is not judged when it is dialled, so a literal one never is",
        _DIAL,
        '        if not verdict.allowed:\n            raise BlockedAddress(verdict)\n        mark("dialled")',
        '        mark("dialled")',
    ),
    _plant(
        _GUARD,
        "one-good-address-is-enough",
        "a name with an allowed and a refused address is dialled",
        _DIAL,
        "return [entry for entry in verdicts if entry[1].allowed] or verdicts if is_local else verdicts",
        "return [entry for entry in verdicts if entry[1].allowed] or verdicts",
    ),
    _plant(
        _GUARD,
        "own-port-reached",
        "a daemon that listens everywhere posts to itself by another of its addresses",
        _DIAL,
        "return own_address(address, port) if verdict.allowed and is_open_everywhere and _is_here(address, port) else verdict",
        "return verdict",
    ),
    _plant(
        _ALERTS,
        "failed-alert-forgotten",
        "what a channel could not send is not sent again",
        _ALERTER,
        "reason=state.failure, again_in_s=rest_s)\n                return\n",
        "reason=state.failure, again_in_s=rest_s)\n",
    ),
    _plant(
        _ALERTS,
        "alert-cursor-not-saved",
        "after a restart a channel begins at the present",
        _ALERTER,
        "> SAVE_AFTER_EVENTS:\n        return True\n",
        "> SAVE_AFTER_EVENTS:\n        return False\n",
    ),
    _plant(
        _ALERTS,
        "alerts-not-gathered",
        "each edge is a message of its own",
        _ALERTER,
        "state.failures, state.opens_at = 0, now + state.gather_s",
        "state.failures, state.opens_at = 0, now",
    ),
    _plant(
        _ALERTS,
        "all-channels-get-all",
        "a channel gets events that it did not choose",
        _ALERTER,
        "wanted = [alert for alert in found if alert.event in channel.events]",
        "wanted = found",
    ),
    _plant(
        _ALERTS,
        "full-disk-again-and-again",
        "a full disk is reported in every message",
        _ALERTER,
        "            state.disk_was_sent = state.disk_was_sent or bool(disk)\n",
        "",
    ),
    _plant(
        _CLUSTER,
        "evicted-goes-on",
        "a node that was evicted goes on as if its lease had been renewed",
        _MEMBERSHIP,
        "        if not is_held:\n            self._lose()\n            return\n",
        "",
    ),
    _plant(
        _CLUSTER,
        "guard-outlives-the-lease",
        "a node begins work after its lease has run out",
        "bridge/cluster/lease_guard.py",
        "OPEN_SHARE: Final = 0.8",
        "OPEN_SHARE: Final = 1.2",
    ),
    _plant(
        _CLUSTER,
        "lease-from-the-answer",
        "the lease counts from the answer to a renewal, which may be late, not from its beginning",
        _MEMBERSHIP,
        "        self._renew_due = began + self._renew_every_s\n        self._extend(began)",
        "        self._renew_due = began + self._renew_every_s\n        self._extend(self._clock.monotonic())",
    ),
    _plant(
        _CLUSTER,
        "posts-outlive-the-lease",
        "POSTs that are under way go on when the lease could not be renewed",
        _MEMBERSHIP,
        "        self._cancel_posts()\n        self.bell.ring()\n",
        "        self.bell.ring()\n",
    ),
    _plant(
        _CLUSTER,
        "evicts-while-in-doubt",
        "a node evicts the others while its own lease is in doubt",
        _MEMBERSHIP,
        "        if self.lease_guard.is_open:\n            await self._evict_dead()",
        "        await self._evict_dead()",
    ),
    _plant(
        _CLUSTER,
        "evicts-at-once-after-an-outage",
        "after an outage the other nodes get no time to renew",
        _MEMBERSHIP,
        "if since is None or self._clock.monotonic() - since < EVICT_AFTER * self._renew_every_s:",
        "if since is None:",
    ),
    _plant(
        _CLUSTER,
        "living-evicted",
        "a node is evicted although its lease is good",
        _NODES,
        "dead = sa.select(nodes.c.id).where(nodes.c.lease_expires_at < _now(tx)).with_for_update",
        "dead = sa.select(nodes.c.id).where(nodes.c.lease_expires_at < _now(tx, 60.0)).with_for_update",
    ),
    _plant(
        _CLUSTER,
        "deliveries-not-taken-over",
        "what a dead node was sending stays leased",
        _NODES,
        "    for table in (runs, deliveries):\n"
        "        tx.connection.execute(sa.update(table).where(table.c.leased_by.in_(node_ids))",
        "    for table in (runs,):\n"
        "        tx.connection.execute(sa.update(table).where(table.c.leased_by.in_(node_ids))",
    ),
    _plant(
        _CLUSTER,
        "evicted-takes-leases",
        "a node that was evicted and does not know it takes leases that nothing releases",
        _NODES,
        "tx.cache[_MAY_LEASE] = tx.connection.execute(mine).first() is not None",
        "tx.cache[_MAY_LEASE] = True",
    ),
    _plant(
        _CLUSTER,
        "renewal-not-written",
        "a renewal leaves the end of the lease as it was",
        _NODES,
        "mine = sa.update(nodes).where(nodes.c.id == node).values(lease_expires_at=_now(tx, lease_s))",
        "mine = sa.update(nodes).where(nodes.c.id == node).values(id=node)",
    ),
    _plant(
        _RELOAD,
        "reload-keeps-tokens",
        "a token that is no longer in the file is good until the next start",
        _DAEMON,
        "if gone := rules.change(tokens, wiring.allowed_hosts(new), new.server.body_bytes_max, _dashboard_rules(new)):",
        "if gone := ():",
    ),
    _plant(
        _RELOAD,
        "reload-keeps-secrets",
        "an endpoint of the file signs with its old secret after a reload",
        _DAEMON,
        "        self.deliverer.file_secrets = {name: endpoint.secret for name, endpoint in new.endpoints.items()}\n"
        "        self.housekeeper",
        "        self.housekeeper",
    ),
    _plant(
        _RELOAD,
        "reload-keeps-policies",
        "`allow` changes at the next start only",
        _DAEMON,
        "            await self.database.write(lambda tx: sessions.remove_of(tx, gone))\n        await self._use_policies()\n",
        "            await self.database.write(lambda tx: sessions.remove_of(tx, gone))\n",
    ),
    _plant(
        _RELOAD,
        "reload-keeps-connections",
        "the connections of the file change at the next start only",
        _DAEMON,
        "        await self.pollers.configure(new.connections, self.sessions, self.node)\n        self.notifier.ready()",
        "        self.notifier.ready()",
    ),
    _plant(
        _TOKENS,
        "readers-may-write",
        "a token with the scope `read` may do everything",
        "bridge/api/serving.py",
        "caller.require(scopes.get((request.method, path), Scope.READ))",
        "caller.require(Scope.READ)",
    ),
    _plant(
        _TOKENS,
        "registering-is-admin",
        "a token with the scope `register` may do everything",
        "bridge/domain/api_token.py",
        "return _RANKS[self] >= _RANKS[wanted]",
        "return _RANKS[self] >= min(1, _RANKS[wanted])",
    ),
    _plant(
        _TOKENS,
        "read-only-dashboard-writes",
        "sessions of a dashboard that is read_only may change things",
        "bridge/api/authentication.py",
        "return Scope.READ if self._rules.dashboard.read_only else token.scope",
        "return token.scope",
    ),
    _plant(
        _TOKENS,
        "other-sites-may-write",
        "a page of another site may change things with the cookie",
        "bridge/api/authentication.py",
        "        if request.method not in READING:\n            check_same_origin(request)\n",
        "",
    ),
    _plant(
        _BACKUPS,
        "oldest-copies-kept",
        "the newest copies are deleted, not the oldest",
        "bridge/maintenance/backups.py",
        "if _NAME.fullmatch(path.name))[:-keep]",
        "if _NAME.fullmatch(path.name))[keep:]",
    ),
    _plant(
        _BACKUPS,
        "late-copy-unnoticed",
        "nobody is told that the newest copy is too old",
        "bridge/maintenance/backups.py",
        "    if due_at is not None and due_at + LATE_AFTER < now:",
        "    if due_at is not None and due_at + 1000 * LATE_AFTER < now:",
    ),
    _plant(
        _BACKUPS,
        "unsound-copy-kept",
        "a copy that is not sound is kept as a backup",
        "bridge/store/sqlite/backup.py",
        "        if found.problems:\n",
        "        if False:\n",
    ),
    _plant(
        _BACKUPS,
        "copy-overwrites",
        "a copy replaces a file that is there",
        "bridge/store/sqlite/backup.py",
        '    if target.exists():\n        raise Conflict(f"{target} exists already and stays as it is; choose another name")\n',
        "",
    ),
    _plant(
        ("tests/polling",),
        "provider-pause-lost-at-a-start",
        "the pause that a provider asked for is over when the daemon starts",
        "bridge/polling/duration_learner.py",
        "            if row.kind == PAUSE and (left_s",
        '            if row.kind == "" and (left_s',
    ),
    _plant(
        ("tests/polling",),
        "misses-add-up",
        "a run is lost that was not found now and then",
        "bridge/polling/schedule.py",
        "        self.is_304 = is_304\n        self.note_not_lost()\n",
        "        self.is_304 = is_304\n",
    ),
    _plant(
        ("tests/domain/cadence", "tests/polling"),
        "failing-polls-rest-for-ever",
        "the back-off of failing polls has no end",
        "bridge/domain/cadence/rule.py",
        "FAILURE_FIRST_S * FAILURE_GROWTH ** min(streak - 1, 16), FAILURE_MAX_S)",
        "FAILURE_FIRST_S * FAILURE_GROWTH ** min(streak - 1, 16), 1e9)",
    ),
    _plant(
        ("tests/store/test_deliveries.py", "tests/delivery", "tests/store"),
        "given-up-releases-nothing",
        "a delivery that is given up does not release the next one of its run",
        "bridge/store/attempts.py",
        "        if each.releases and each.result.delivery.run_id:",
        "        if each.releases and each.result.delivery.run_id and each.result.answer.outcome.value == 'delivered':",
    ),
    _plant(
        ("tests/domain/test_endpoint_backoff.py",),
        "success-ends-a-pause",
        "a success ends the pause that the receiver asked for",
        "bridge/domain/endpoint_backoff.py",
        "        return EndpointBackoff(paused_until=_ahead(backoff.paused_until, now))",
        "        return EndpointBackoff()",
    ),
    _plant(
        ("tests/maintenance/test_wall_clock.py",),
        "clock-goes-back",
        "a set clock goes back although its commit happened",
        "bridge/maintenance/wall_clock.py",
        "            if not await self._has_database_moved():\n",
        "            if True:\n",
    ),
    _plant(
        ("tests/delivery/test_handing_over.py", "tests/delivery"),
        "lost-claims-stay",
        "a claim whose commit reported an error and happened is never released",
        "bridge/delivery/deliverer.py",
        "        if lost := unheld & self._unheld:",
        "        if lost := unheld & set():",
    ),
    _plant(
        ("tests/store/test_nodes.py", "tests/delivery", "tests/acceptance/test_killing.py"),
        "starting-uses-up",
        "a start uses up a retry of what was being sent",
        _NODES,
        "tx.connection.execute(sa.update(table).where(table.c.leased_by.in_(node_ids)).values(leased_by=None))",
        "tx.connection.execute(sa.update(table).where(table.c.leased_by.in_(node_ids)).values("
        "leased_by=None, **({'failures': table.c.failures + 1} if table is deliveries else {})))",
    ),
    _plant(
        ("tests/store/test_deliveries.py", "tests/delivery/test_replayer.py", "tests/store"),
        "new-one-overtakes",
        "a delivery that is sent again by hand overtakes the one before it, where order is asked for",
        "bridge/store/deliveries.py",
        "    hold_back(tx, delivery_ids)\n",
        "",
    ),
)
