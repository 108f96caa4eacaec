"""Response bodies that the dashboard needs beside those of the things it shows: sessions, the summary, settings, findings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bridge.api.response_models import NextCursor, Shown, When
from bridge.domain.alert import ChannelKind
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


class RunCounts(Shown):
    """The number of runs, settled ones included as long as they are kept."""

    by_status: dict[str, int]
    by_connection: dict[str, dict[str, int]]


class DeliveryCounts(Shown):
    """The number of deliveries; those of single runs' webhooks are counted together."""

    by_state: dict[str, int]
    by_endpoint: dict[str, dict[str, int]]
    one_run_webhooks: dict[str, int]
    oldest_due_at: When | None = Field(description="Since when the longest waiting delivery is due; null: none is due.")


class MinuteAnswer(Shown):
    """One minute: the runs that settled, the attempts that were accepted, and those that were not."""

    at: When
    settled: int
    delivered: int
    failed: int


class HourAnswer(Shown):
    """One hour of the last day, as a minute; null while it is not counted yet after a start."""

    at: When
    settled: int | None
    delivered: int | None
    failed: int | None


class AttentionAnswer(Shown):
    """One thing that is wrong, what is known about it and what to do."""

    kind: Literal["connection", "endpoint", "daemon"]
    id: str
    severity: Literal["error", "warning"]
    since: When | None
    sentence: str


class SummaryAnswer(Shown):
    """Everything at a glance; `minutes` and `hours` are the last sixty and 24, `attention` has the worst first."""

    version: str
    counted_at: When
    status: Literal["ok", "attention"]
    sentence: str
    runs: RunCounts
    deliveries: DeliveryCounts
    minutes: list[MinuteAnswer]
    hours: list[HourAnswer]
    attention: list[AttentionAnswer]
    database_bytes: int


class SettingAnswer(Shown):
    """One setting in effect. `origin`: `default`, `file:PATH`, `env:NAME` or `flag`."""

    key: str
    value: str
    origin: str


class SettingList(Shown):
    """Every setting, in the order of the example file."""

    data: list[SettingAnswer]
    next_cursor: NextCursor


class AlertTestItem(Shown):
    """One channel: whether it took a test message, and if not, why."""

    channel: str = Field(validation_alias="name")
    kind: ChannelKind
    ok: bool
    detail: str


class AlertTest(Shown):
    """Every channel that was tried."""

    data: list[AlertTestItem]


class FindingAnswer(Shown):
    """One check: `ok`, a `remark`, or `wrong`, with what to do in `detail`."""

    check: str = Field(validation_alias="what")
    result: Literal["ok", "remark", "wrong"]
    detail: str


class FindingList(Shown):
    """Every check, in the order in which problems depend on each other."""

    data: list[FindingAnswer]
    next_cursor: NextCursor
