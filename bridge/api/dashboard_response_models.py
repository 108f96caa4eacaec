"""Response bodies that the dashboard needs beside those of the things it shows: sessions."""

from __future__ import annotations

from bridge.api.response_models import NextCursor, Shown, When
from bridge.domain.api_token import Scope


class SessionAnswer(Shown):
    """The caller: its token's name and what it may do; `id` and the times are null without a session."""

    id: str | None
    token: str
    scope: Scope
    read_only: bool
    created_at: When | None
    expires_at: When | None
    version: str


class SessionRow(Shown):
    """An open session; `expires_at` moves on while it is used."""

    id: str
    token: str
    created_at: When
    last_used_at: When
    expires_at: When


class SessionList(Shown):
    """All open sessions."""

    data: list[SessionRow]
    next_cursor: NextCursor


class LinkAnswer(Shown):
    """A one-time link: the dashboard's address followed by `fragment`; `link` is the secret in it."""

    link: str
    fragment: str
    expires_at: When
