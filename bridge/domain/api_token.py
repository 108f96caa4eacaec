"""Tokens of the API, and what each may do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from bridge.domain.secret import Secret


class Scope(StrEnum):
    """The rights of a token: `read` gets, `register` also registers runs, `admin` does everything."""

    READ = "read"
    REGISTER = "register"
    ADMIN = "admin"

    def covers(self, wanted: Scope) -> bool:
        """Whether a token of this scope may do what needs the scope `wanted`."""
        return _RANKS[self] >= _RANKS[wanted]


_RANKS: Final = {scope: rank for rank, scope in enumerate(Scope)}


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token by its name in the configuration; what it changes is logged with that name."""

    name: str
    token: Secret
    scope: Scope
