"""What an endpoint can ask for about its deliveries, given and shown on the command line."""

from __future__ import annotations

import json

from tests.cli.conftest import RunCommand
from tests.support.cli_world import World


def test_wishes_are_given_when_it_is_added_and_shown(bridge: RunCommand, running: World) -> None:
    added = bridge(
        "endpoints", "add", running.receiver, "--events", "run.finished",
        "--payload", "thin", "--format", "cloudevents", "--rate-limit", "2.5", "--v1a", "--json",
    )  # fmt: skip
    assert added.code == 0, added.err
    made = json.loads(added.out)
    assert (made["payload"], made["format"], made["rate_limit"]) == ("thin", "cloudevents", 2.5)
    (key,) = made["public_keys"]
    shown = bridge("endpoints", "show", made["id"]).out
    for part in ("thin", "cloudevents", "2.5 a second", "v1, v1a", key):
        assert part in shown
    rotated = bridge("endpoints", "rotate-secret", made["id"], "--v1a")
    assert "whpk_" in rotated.out
    assert "whsec_" not in rotated.out
    assert bridge("endpoints", "rm", made["id"]).code == 0


def test_the_public_key_is_told_when_it_is_added(bridge: RunCommand, running: World) -> None:
    added = bridge("endpoints", "add", running.receiver, "--v1a")
    assert "whpk_" in added.out
    assert bridge("endpoints", "rm", added.out.split()[0]).code == 0


def test_every_attempt_is_shown_with_phases_peer_and_what_was_answered(bridge: RunCommand, running: World) -> None:
    added = json.loads(bridge("endpoints", "add", running.receiver, "--json").out)
    assert bridge("endpoints", "ping", added["id"]).code in (0, 1)
    (row,) = json.loads(bridge("deliveries", "list", "--endpoint", added["id"], "--json").out)["data"]
    shown = bridge("deliveries", "show", row["id"]).out
    for part in ("#1", "peer", "127.0.0.1:", "phases", "first_byte", "outcome"):
        assert part in shown, shown
    assert bridge("endpoints", "rm", added["id"]).code == 0


def test_a_wish_that_cannot_be_met_is_wrong_use(bridge: RunCommand, running: World) -> None:
    assert bridge("endpoints", "add", running.receiver, "--rate-limit", "0").code == 2
    assert bridge("endpoints", "add", running.receiver, "--format", "xml").code == 2
