"""Checks of single values that only the configuration has, and the base of its tables.

A check returns a plain value, or raises a ValueError with the remedy.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, ClassVar
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator

from bridge.domain.addresses.policy import AllowRule
from bridge.domain.database_url import postgres_target
from bridge.domain.errors import InvalidInput
from bridge.domain.fields import STRICT, one_of
from bridge.domain.secret import Secret
from bridge.domain.webhook_url import parse_target

SIZE_BYTES_MIN, SIZE_BYTES_MAX = 10**6, 10**15
UNIX_PATH_BYTES_MAX = 107  # sun_path in sockaddr_un holds 108 with the final zero
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]")
_HEADER_SAFE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?", re.ASCII)
_SIZE = re.compile(r"(?P<number>\d{1,15}(?:\.\d{1,6})?) ?(?P<unit>[KMGT]i?B|B)", re.ASCII | re.IGNORECASE)
_UNITS_BYTES = {"B": 1} | {
    f"{prefix}{middle}B": base**power
    for power, prefix in enumerate("KMGT", 1)
    for middle, base in (("", 1000), ("I", 1024))
}
_TIME_OF_DAY = re.compile(r"(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)", re.ASCII)
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_WEEKDAY = rf"[0-7]|{'|'.join(_WEEKDAYS)}"
_WEEKDAY_PART = re.compile(rf"(?P<first>\*|{_WEEKDAY})(?:-(?P<last>{_WEEKDAY}))?(?:/(?P<step>[1-7]))?", re.ASCII)
_IN_A_LEAP_YEAR = datetime(2024, 1, 1, tzinfo=UTC)
_LISTEN = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>\d{1,20})", re.ASCII)
_AUTHORITY = re.compile(r"(?:\[[^\]]*\]|[^:/?\[\]]*)(?::\d{1,5})?(?:[/?].*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """The API's address: `host` and `port`, or the `path` of a Unix socket. Port 0 takes a free one."""

    host: str | None = None
    port: int | None = None
    path: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in (self.host or "") else f"{self.host}:{self.port}"


def read_listen(value: object) -> ListenAddress:
    """`host:port`, `[v6]:port` or `unix:/path`."""
    if isinstance(value, ListenAddress):
        return value
    text = value if isinstance(value, str) else ""
    if text.startswith("unix:"):
        return _read_socket_path(text.removeprefix("unix:"))
    found = _LISTEN.fullmatch(text)
    if not found or not (found["v6"] or found["host"]):
        raise ValueError('expected "host:port", "[::1]:port" or "unix:/path", for example "127.0.0.1:8484"')
    if int(found["port"]) > 65535:
        raise ValueError("a port lies between 0 and 65535; 0 takes a free one")
    host = found["v6"] or found["host"]
    if found["v6"] is not None:
        _ip(host, "between [ and ] stands an IPv6 address", version=6)
    elif not _HOST.fullmatch(host):
        raise ValueError('the host is not a name or address; to listen on every address write "0.0.0.0:8484"')
    return ListenAddress(host=host, port=int(found["port"]))


def _read_socket_path(path: str) -> ListenAddress:
    if not path.startswith("/") or "\0" in path:
        raise ValueError('the path of a Unix socket is absolute, for example "unix:/run/runbridge/api.sock"')
    if len(path.encode()) > UNIX_PATH_BYTES_MAX:
        raise ValueError(f"the path of a Unix socket holds at most {UNIX_PATH_BYTES_MAX} bytes; choose a shorter one")
    return ListenAddress(path=path)


def read_host_name(value: object) -> str:
    """A name or address as it stands in a `Host` header, without port, lower case."""
    text = value if isinstance(value, str) else ""
    if text.startswith("[") and text.endswith("]"):
        return f"[{_ip(text[1:-1], 'expected a host name without port', version=6)}]"
    if not _HOST.fullmatch(text):
        raise ValueError('expected a host name without scheme and port, for example "bridge.example.org"')
    return text.lower()


def _ip(text: str, complaint: str, *, version: int) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(complaint) from None
    if address.version != version or "%" in text:
        raise ValueError(complaint)
    return str(address)


@dataclass(frozen=True, slots=True)
class CalendarSchedule:
    """When something is done, in UTC: as the operator wrote it, and as a cron line with weekdays by name."""

    text: str
    cron: str

    def __str__(self) -> str:
        return self.text


def read_schedule(value: object) -> CalendarSchedule:
    """A time of day (`03:15`), or a cron line of five fields."""
    from apscheduler.triggers.cron import CronTrigger  # only a file that has one waits for it

    text = " ".join(value.split()) if isinstance(value, str) else ""
    if time := _TIME_OF_DAY.fullmatch(text):
        return CalendarSchedule(text, f"{int(time['minute'])} {int(time['hour'])} * * *")
    fields = text.split()
    if len(fields) != 5:
        raise ValueError('expected a time of day (UTC) such as "03:15", or a cron line of five fields ("15 3 * * sun")')
    try:
        cron = " ".join([*fields[:4], _name_weekdays(fields[4])])
        next_at = CronTrigger.from_crontab(cron, timezone="UTC").get_next_fire_time(None, _IN_A_LEAP_YEAR)
    except ValueError as error:
        raise ValueError(f'not a cron line: {error}; an example is "15 3 * * sun"') from None
    if next_at is None:
        raise ValueError("no date matches this cron line")
    return CalendarSchedule(text, cron)


def _name_weekdays(field: str) -> str:
    """The weekdays of a cron line by name: cron counts from Sunday (0 and 7), APScheduler from Monday."""
    if field == "*":
        return field
    days: set[int] = set()
    for part in field.lower().split(","):
        found = _WEEKDAY_PART.fullmatch(part)
        if not found:
            raise ValueError(f"{part!r} is not a weekday (0 to 7, or sun to sat)")
        first = 0 if found["first"] == "*" else _weekday(found["first"])
        last = 6 if found["first"] == "*" else _weekday(found["last"] or found["first"])
        chosen = range(first, last + 1 if last >= first else last + 8)  # fri-mon goes round the end of the week
        days |= {day % 7 for day in chosen[:: int(found["step"] or 1)]}
    return ",".join(_WEEKDAYS[day] for day in sorted(days))


def _weekday(text: str) -> int:
    return int(text) if text.isdigit() else _WEEKDAYS.index(text)


def check_folder(text: str) -> str:
    """A folder's path, absolute or relative."""
    if not text.strip() or text.startswith("~"):
        raise ValueError("expected a folder, for example /var/backups/runbridge; ~ is not replaced")
    return text


def check_url(text: str) -> str:
    """An http or https URL in one plain spelling, without credentials and fragment."""
    try:
        parse_target(text)
    except InvalidInput as invalid:
        raise ValueError(invalid.problems[0].message) from None
    return text


def check_base_url(text: str) -> str:
    """A provider's address without query; a final slash is dropped."""
    check_url(text)
    if "?" in text:
        raise ValueError("no query (?…) in a base URL")
    return text.rstrip("/")


def read_proxy(value: object) -> str:
    """An HTTP proxy's address, with user and password if it wants them."""
    text = value.reveal() if isinstance(value, Secret) else value
    parts = urlsplit(text) if isinstance(text, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError('expected the URL of an HTTP proxy, for example "http://proxy.example.org:3128"')
    if parts.path not in ("", "/") or parts.query or parts.fragment or _UNPRINTABLE.search(str(text)):
        raise ValueError("a proxy's URL has no path, query or blanks; percent-encode them in user and password")
    return str(text)


def check_allow(text: str) -> str:
    """One line of `[delivery] allow`: a network or address, with or without a port."""
    AllowRule.parse(text)
    return text


def check_header_text(text: str) -> str:
    """Text that can stand in an HTTP header."""
    if not _HEADER_SAFE.fullmatch(text):
        raise ValueError("holds a line break, outer spaces or characters other than printable ASCII; copy it again")
    return text


def check_header_list(secret: Secret) -> Secret:
    """Headers in the form of OTEL_EXPORTER_OTLP_HEADERS."""
    header_list(secret)
    return secret


def header_list(secret: Secret) -> dict[str, str]:
    """The headers in `name=value,name=value`, percent-decoded. Raises ValueError, which shows no value."""
    found = {}
    for number, pair in enumerate(secret.reveal().split(","), 1):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
            raise ValueError(f"pair {number} is not `name=value`; separate pairs by commas, and write a comma as %2C")
        found[name.lower()] = check_header_text(unquote(value))
    return found


def check_header_safe(secret: Secret) -> Secret:
    """A key or token that can stand in an HTTP header."""
    check_header_text(secret.reveal())
    return secret


def check_vault_keys(secret: Secret) -> Secret:
    """One or more keys of 32 bytes in base64."""
    from bridge.domain.encryption import parse_keys  # only a file that has one waits for it

    if not parse_keys(secret.reveal()):
        raise ValueError("holds no key")
    return secret


def read_size(value: object) -> int:
    """Bytes in a text such as `500MB`, `1GB` or `2GiB`."""
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError('expected a size such as "500MB", "1GB" or "2GiB", in quotes and with its unit')
    size_bytes = int(float(found["number"]) * _UNITS_BYTES[found["unit"].upper()])
    if not SIZE_BYTES_MIN <= size_bytes <= SIZE_BYTES_MAX:
        raise ValueError(f"must lie between {format_size(SIZE_BYTES_MIN)} and {format_size(SIZE_BYTES_MAX)}")
    return size_bytes


def format_size(size_bytes: int) -> str:
    """The shortest exact text that `read_size` reads."""
    units = sorted(_UNITS_BYTES.items(), key=lambda unit: -unit[1])
    name, unit_bytes = next((name, of) for name, of in units if size_bytes % of == 0)
    return f"{size_bytes // unit_bytes}{name.replace('I', 'i')}"


def check_database_url(value: object) -> str:
    """`sqlite:///PATH` or `postgresql://…`."""
    text = value.reveal() if isinstance(value, Secret) else value
    if not isinstance(text, str) or _UNPRINTABLE.search(text.replace(" ", "")):
        raise ValueError('expected "sqlite:///PATH" or "postgresql://…"')
    scheme, separator, rest = text.partition("://")
    match scheme if separator else "":
        case "sqlite" if "?" in rest:
            raise ValueError("a SQLite URL has no parameters; leave out everything from the `?` on")
        case "sqlite" if rest.startswith("/") and rest.strip("/") not in ("", ":memory:"):
            return text
        case "sqlite":
            raise ValueError(
                'name a file: "sqlite:////absolute/path.db" or "sqlite:///relative.db" (count the slashes)'
            )
        case "postgresql" if rest and _AUTHORITY.fullmatch(rest.rpartition("@")[2]):
            postgres_target(text)
            return text
        case "postgresql":
            raise ValueError('expected "postgresql://user:password@host:5432/database"')
        case "postgres":
            raise ValueError("spell it postgresql://…")
        case "":
            raise ValueError('expected "sqlite:///PATH" or "postgresql://…"')
        case _:
            raise ValueError(
                "only sqlite:///PATH and postgresql://… are known; leave out any +driver, capitals and what stands before it"
            )


def mask_password(text: str) -> str:
    """The URL without its password."""
    masked = re.sub(r"(://[^:@/?]*):.*@", r"\1:****@", text, flags=re.DOTALL)
    return re.sub(r"([?&]\w*password=)[^&]*", r"\1****", masked, flags=re.IGNORECASE)


def mask_query(url: str) -> str:
    """The URL without its query, which often holds a token."""
    return url.partition("?")[0] + ("?****" if "?" in url else "")


def choice(*known: str) -> BeforeValidator:
    """One of these words, in any case of letters."""
    return BeforeValidator(lambda value: one_of(value.lower() if isinstance(value, str) else value, known))


HeaderSecret = Annotated[Secret, AfterValidator(check_header_safe)]


class Table(BaseModel):
    """One table of the file. `secrets` names the keys that may also be given as X_env or X_file."""

    model_config = STRICT
    secrets: ClassVar[tuple[str, ...]] = ()
    rivals: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def attributes(cls) -> dict[str, str]:
        """Key in the file → attribute, in the order of the fields."""
        return {field.alias or name: name for name, field in cls.model_fields.items()}

    @classmethod
    def known_keys(cls) -> list[str]:
        """Every key that may stand in this table."""
        return [*cls.attributes(), *(f"{name}_{how}" for name in cls.secrets for how in ("env", "file"))]
