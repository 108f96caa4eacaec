"""The one tree of errors.

BridgeError                     anything we raise on purpose; its text is the message a person reads
├── InvalidInput                input is wrong: `problems` names every field at fault
├── NotJson                     a request's body is not JSON that every reader understands alike
├── NotFound                    no such run, endpoint, event, delivery, connection
├── Conflict                    it exists, but not in a state that allows this
├── Unsupported                 the provider has no such operation
├── ProviderRefused             the provider answered a trigger or cancel with a refusal
├── ProviderFailed              the provider gave no answer to a trigger or cancel that could be used
│   └── StartUnknown            so that it may have started a run, or not
├── BadPayload                  a provider's answer is not what its documentation promises
├── FilterFailed                an endpoint's filter fails on an event
│   └── FilterTooCostly         or takes more steps on it than allowed
├── StoreUnavailable            the database cannot be written or read now (full, locked, gone)
│   └── StoreDamaged            nor later, until it is restored
├── DatabaseRefused             the database is not ours to open (corrupt, foreign, newer, in use)
└── WorkerDied                  a worker of the daemon ended by itself; the daemon stops
"""

from __future__ import annotations

from dataclasses import dataclass


class BridgeError(Exception):
    """Something that runbridge refuses or cannot do; the text says what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One field at fault: `field` is a dotted path or JSON pointer part, `message` says what to do."""

    field: str
    message: str


class InvalidInput(BridgeError):
    """The input is wrong; `problems` names every field at fault."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{p.field}: {p.message}" for p in problems))


class NotJson(BridgeError):
    """The body is not JSON that every reader understands alike."""


class NotFound(BridgeError):
    """There is no such thing."""


class Conflict(BridgeError):
    """It exists, but not in a state that allows this."""


class BeingSent(Conflict):
    """It is being sent at this moment; trying again in a few seconds succeeds."""


class Unsupported(BridgeError):
    """The provider has no such operation."""


class ProviderRefused(BridgeError):
    """The provider answered with a refusal."""


class ProviderFailed(BridgeError):
    """The provider gave no answer that could be used; what it did is not known."""


class StartUnknown(ProviderFailed):
    """Whether the provider started the run is not known; to ask it again might start a second one."""


class BadPayload(BridgeError):
    """The answer is not what the provider's documentation promises; the text says in which way."""


class FilterFailed(BridgeError):
    """The filter fails on this event, or takes more steps than allowed; the text says why."""


class FilterTooCostly(FilterFailed):
    """The filter takes more steps than allowed on this event."""


class StoreUnavailable(BridgeError):
    """The database cannot be used at the moment; nothing was changed, try again."""


class StoreDamaged(StoreUnavailable):
    """Pages of the database file are damaged; it must be restored."""


class DatabaseRefused(BridgeError):
    """The database is not one this daemon may open."""


class WorkerDied(BridgeError):
    """A worker ended that should run as long as the daemon; it has to be started again."""
