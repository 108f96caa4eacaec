"""Fake providers that speak the four real APIs, and a receiver that verifies signatures.

For the demo, for users without credentials, and for the tests. Both run inside a process on port 0
(`await Sandbox().start()`) or as a process of their own (`runbridge sandbox providers`).
"""

from bridge.sandbox.receiver import Received, Receiver, Reply, ReplyKind
from bridge.sandbox.scenarios import DEFAULT_OUTPUT, Scenario, Step
from bridge.sandbox.server import Sandbox

__all__ = ["DEFAULT_OUTPUT", "Received", "Receiver", "Reply", "ReplyKind", "Sandbox", "Scenario", "Step"]
