"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from bridge.cli.daemon_address import find_daemon
from bridge.domain.errors import BridgeError
from bridge.domain.secret import Secret
from bridge.domain.timestamps import format_instant, parse_duration, parse_instant

if TYPE_CHECKING:
    from bridge.cli.client import Client

COMPLETION_TIMEOUT_S: Final = 2.0


@dataclass(slots=True)
class Settings:
    """Values of the common options."""

    config_path: Path | None = None
    url: str | None = None
    token: Secret | None = None
    as_json: bool = False

    def __post_init__(self) -> None:
        """Add the environment of the system service, where its configuration applies to us."""
        from bridge.config.locate import service_env

        os.environ.update(service_env(os.environ))

    def client(self) -> Client:
        """A client of the daemon, whose address comes from flags, environment or configuration."""
        from bridge.cli.client import Client

        return Client(find_daemon(url=self.url, token=self.token, config_path=self.config_path, env=os.environ))


pass_settings = click.make_pass_decorator(Settings, ensure=True)


def combined(*decorators: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """One decorator for several, of which the first is applied last, as if they stood one below the other."""
    return lambda function: reduce(lambda decorated, decorator: decorator(decorated), reversed(decorators), function)


def _store(attribute: str, convert: Callable[[Any], object]) -> Callable[..., None]:
    def callback(ctx: click.Context, _parameter: click.Parameter, value: object) -> None:
        if value:
            setattr(ctx.ensure_object(Settings), attribute, convert(value))

    return callback


json_option = click.option(
    "--json", "as_json", is_flag=True, expose_value=False, callback=_store("as_json", bool), help="Print JSON."
)
config_option = click.option(
    "--config",
    "config_path",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    expose_value=False,
    callback=_store("config_path", Path),
    help="The configuration file.",
)
_url = click.option(
    "--url",
    "daemon_url",
    metavar="URL",
    expose_value=False,
    callback=_store("url", str),
    help="The daemon's address (http://… or unix:/path).",
)
_token = click.option(
    "--token",
    "daemon_token",
    metavar="TOKEN",
    expose_value=False,
    callback=_store("token", Secret),
    help="The API token. RUNBRIDGE_TOKEN keeps it out of the process list.",
)
daemon_options = combined(config_option, _url, _token, json_option)
common_options = combined(daemon_options, pass_settings)
"""For commands that call the daemon: --config, --url, --token and --json; the first argument is Settings."""
file_options = combined(config_option, json_option, pass_settings)
"""For commands that only read the configuration: --config and --json; the first argument is Settings."""


def paging_options(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --limit and --cursor to the list of `what`."""
    return combined(
        click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True, help=f"{what} per page."),
        click.option("--cursor", help="Where the previous page ended."),
    )


class ListedName(click.ParamType[str]):
    """The name of something that `GET /v1/NOUN` lists. A shell completes it with the newest names.

    A name stands in one of `fields`; `prefix` is the query parameter for its beginning, where the API has one.
    """

    name = "name"

    def __init__(self, noun: str, *fields: str, prefix: str | None = None, **query: Any) -> None:
        self._noun, self._fields, self._prefix, self._query = noun, fields, prefix, query

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names that begin with `incomplete`; none without a daemon that answers within COMPLETION_TIMEOUT_S."""
        try:
            client = ctx.ensure_object(Settings).client()
            query = {**self._query, **({self._prefix: incomplete or None} if self._prefix else {})}
            rows = client.get("v1", self._noun, timeout_s=COMPLETION_TIMEOUT_S, **query).rows()
        except (BridgeError, click.ClickException, OSError):
            return []
        names = [str(row[field]) for field in (self._fields if incomplete else self._fields[:1]) for row in rows]
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


RUN: Final = ListedName("runs", "id", "provider_run_id", prefix="q", limit=50)
CONNECTION: Final = ListedName("connections", "name")
ENDPOINT: Final = ListedName("endpoints", "id", limit=200)


class Names(click.ParamType[list[str]]):
    """Names out of those that `known` returns, comma separated: `run.finished,run.waiting`."""

    name = "a,b"

    def __init__(self, what: str, known: Callable[[], Sequence[str]]) -> None:
        """`what`: what such a name is called in an error."""
        self._what, self._known = what, known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Split `value`; an unknown name fails with the closest one."""
        from bridge.domain.suggestions import closest

        known = self._known()
        names = [name.strip() for name in str(value).split(",") if name.strip()]
        for name in names:
            if name not in known:
                near = closest(name, known)
                hint = f"did you mean {near}?" if near else f"known: {', '.join(known)}"
                self.fail(f"unknown {self._what} {name!r}; {hint}", param, ctx)
        return names or self.fail(f"name at least one {self._what}", param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the last name of the list."""
        *before, last = incomplete.split(",")
        return [
            CompletionItem(",".join((*before, name)))
            for name in self._known()
            if name.startswith(last) and name not in before
        ]


def _event_types() -> list[str]:
    from bridge.domain.event import EventType

    return [member.value for member in EventType]


EVENT_TYPES: Final = Names("event type", _event_types)


class DurationText(click.ParamType[float]):
    """A duration such as `90s`, `5m` or `2h`, in seconds; `unit` is that of a number without one."""

    name = "duration"

    def __init__(self, unit: str = "") -> None:
        self._unit = unit

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse `value` into seconds."""
        if isinstance(value, float):
            return value
        try:
            return parse_duration(f"{value}{self._unit}" if str(value).isdecimal() else str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class InstantText(click.ParamType[str]):
    """An instant: a duration back from now (`2h`), or RFC 3339."""

    name = "2h|instant"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the instant as RFC 3339 text."""
        try:
            return format_instant(datetime.now(UTC) - timedelta(seconds=parse_duration(str(value))))
        except (ValueError, OverflowError):
            pass
        try:
            return format_instant(parse_instant(str(value)))
        except (ValueError, OverflowError):
            self.fail("expected a duration back from now such as 2h, or an instant such as 2026-01-15T10:30:00Z")


class Pair(click.ParamType[tuple[str, str]]):
    """`name=value` or `name: value`, split at the first separator."""

    def __init__(self, separator: str) -> None:
        self.separator = separator
        self.name = f"name{separator}value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Split `value` and strip both parts."""
        if isinstance(value, tuple):
            return value
        name, separator, rest = str(value).partition(self.separator)
        if not separator or not name.strip():
            self.fail(f"expected NAME{self.separator}VALUE", param, ctx)
        return name.strip(), rest.strip()


def read_keys(secret: str | None, secret_file: Path | None) -> list[bytes]:
    """The signing keys in --secret (separated by spaces) or --secret-file (one per line); [] without either."""
    from bridge.domain.signing import hmac_v1

    if secret is not None and secret_file is not None:
        raise click.UsageError("give either --secret or --secret-file, not both")
    text = secret or ""
    if secret_file is not None:
        text = (
            sys.stdin.read() if str(secret_file) == "-" else secret_file.read_text(encoding="utf-8", errors="replace")
        )
    try:
        return [hmac_v1.secret_key(word) for word in text.split()]
    except ValueError as error:
        raise click.UsageError(f"the secret cannot be used: {error}") from None


secret_options = combined(
    click.option("--secret", metavar="whsec_…", help="The signing secret; a file keeps it out of the process list."),
    click.option(
        "--secret-file",
        metavar="FILE",
        type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
        help="A file that holds the signing secret.",
    ),
)
