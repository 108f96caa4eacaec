"""Tokens of the API, and what each may do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bridge.domain.secret import Secret


class Scope(StrEnum):
    """What a token may do: `read` gets, `register` also registers runs, `admin` does everything."""

    READ = "read"
    REGISTER = "register"
    ADMIN = "admin"

    def covers(self, wanted: Scope) -> bool:
        """Whether a token of this scope may do what needs the scope `wanted`."""
        order = list(Scope)
        return order.index(self) >= order.index(wanted)


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token by its name in the configuration; what it changes is logged with that name."""

    name: str
    token: Secret
    scope: Scope
