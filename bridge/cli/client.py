"""Client of the running daemon: HTTP calls and the event stream.

Uses `http.client`: a command makes one or two calls, and proxies in the environment do not apply to the daemon.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast
from urllib.parse import quote, urlencode

from bridge import __version__
from bridge.cli.daemon_address import ApiRefused, DaemonAddress, DaemonUnreachable
from bridge.domain.errors import InvalidInput, Problem

TIMEOUT_S: Final = 30.0
SILENCE_MAX_S: Final = 45.0  # three missed heartbeats of the event stream
BODY_BYTES_MAX: Final = 64 * 1024 * 1024
GIVE_UP_AFTER_S: Final = 60.0  # a restart takes a few seconds

T = TypeVar("T")
Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ClientResponse:
    """A response of the daemon: its status and the exact bytes of its JSON."""

    status: int
    body: bytes
    date: str | None = None
    """The header `Date`."""

    def object(self) -> Object:
        """The body as an object; {} for an empty body (204)."""
        return cast("Object", json.loads(self.body)) if self.body else {}

    def rows(self) -> list[Object]:
        """The items of a list response."""
        return cast("list[Object]", self.object().get("data", []))


@dataclass(frozen=True, slots=True)
class StreamedEvent:
    """One event of the stream: its id, and the bytes that webhooks carry."""

    id: str
    body: bytes


class Client:
    """Calls to the daemon at `address`. Every method raises DaemonUnreachable or ApiRefused."""

    def __init__(self, address: DaemonAddress) -> None:
        self.address = address

    def get(self, *path: str, timeout_s: float = TIMEOUT_S, **query: object) -> ClientResponse:
        """Send GET. Parts of `path` are escaped; None in `query` is left out; a list repeats its key."""
        return self._call("GET", path, query, None, timeout_s)

    def post(self, *path: str, body: Object | None = None, timeout_s: float = TIMEOUT_S) -> ClientResponse:
        """Send POST with `body` as JSON."""
        return self._call("POST", path, {}, body if body is not None else {}, timeout_s)

    def patch(self, *path: str, body: Object) -> ClientResponse:
        """Send PATCH with `body` as JSON."""
        return self._call("PATCH", path, {}, body, TIMEOUT_S)

    def delete(self, *path: str) -> ClientResponse:
        """Send DELETE."""
        return self._call("DELETE", path, {}, None, TIMEOUT_S)

    def stream_events(
        self, *, after: str | None, types: list[str] | None = None, patience: Patience | None = None
    ) -> Iterator[StreamedEvent]:
        """Yield events as they are recorded, without end; reconnect after the last event when the connection breaks."""
        patience = patience or Patience()
        while True:
            try:
                for event in self._stream_once(after, types, patience):
                    after = event.id
                    yield event
                patience.wait_or_raise(DaemonUnreachable(f"the daemon at {self.address} closed the event stream"))
            except DaemonUnreachable as error:
                patience.wait_or_raise(error)

    def _stream_once(self, after: str | None, types: list[str] | None, patience: Patience) -> Iterator[StreamedEvent]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
        with self._translated_errors(), contextlib.closing(self._connection(SILENCE_MAX_S)) as connection:
            target = self._target(("v1", "events", "stream"), {"type": types})
            connection.request("GET", target, headers=self._headers() | headers)
            response = connection.getresponse()
            if response.status != 200:
                raise self._refusal(response.status, response.read(BODY_BYTES_MAX))
            patience.reset()
            yield from _server_sent_events(response)

    def _call(
        self, method: str, path: tuple[str, ...], query: Object, body: Object | None, timeout_s: float
    ) -> ClientResponse:
        headers = self._headers()
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        with self._translated_errors(), contextlib.closing(self._connection(timeout_s)) as connection:
            connection.request(method, self._target(path, query), body=content, headers=headers)
            raw = connection.getresponse()
            response = ClientResponse(raw.status, raw.read(BODY_BYTES_MAX), raw.getheader("Date"))
        if response.status >= 300:
            raise self._refusal(response.status, response.body)
        if response.body and not _is_object(response.body):
            raise ApiRefused(f"the server at {self.address} is not a runbridge daemon")
        return response

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        address = self.address
        if address.socket is not None:
            return _UnixConnection(address.socket, timeout_s)
        if address.is_tls:
            return http.client.HTTPSConnection(address.host, address.port, timeout=timeout_s)
        return http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": f"runbridge-cli/{__version__}"}
        if self.address.token is not None:
            headers["Authorization"] = f"Bearer {self.address.token.reveal()}"
        return headers

    def _target(self, path: tuple[str, ...], query: Object) -> str:
        if "" in path:
            raise InvalidInput([Problem("id", "is empty; give one that `list` shows")])
        given = {key: value for key, value in query.items() if value not in (None, [], ())}
        escaped = "/".join(quote(part, safe="") for part in path)
        return f"{self.address.prefix}/{escaped}" + (f"?{urlencode(given, doseq=True)}" if given else "")

    @contextlib.contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Raise DaemonUnreachable, with one sentence, for every error of the connection."""
        try:
            yield
        except TimeoutError as error:
            said = f"the daemon at {self.address} did not answer in time; it may be frozen, its machine overloaded, or the "
            advice = f"address not reachable (it comes from {self.address.origin}): see `systemctl status runbridge`"
            raise DaemonUnreachable(said + advice) from error
        except ssl.SSLError as error:
            raise self._unreachable(f"TLS failed: {error.reason or 'no details'}") from error
        except OSError as error:
            raise self._unreachable((error.strerror or str(error) or type(error).__name__).lower()) from error
        except http.client.HTTPException as error:
            raise self._unreachable(f"the server there does not speak HTTP: {type(error).__name__}") from error

    def _unreachable(self, why: str) -> DaemonUnreachable:
        return DaemonUnreachable(
            f"no daemon at {self.address} ({why}; the address comes from {self.address.origin}); "
            "start it with `runbridge serve`, or name another address with --url"
        )

    def _refusal(self, status: int, body: bytes) -> ApiRefused:
        if status == 401:
            refused = f"the daemon at {self.address} does not accept this token ({self.address.token_from})"
            return ApiRefused(f"{refused}; give --token or set RUNBRIDGE_TOKEN")
        problem = json.loads(body) if _is_object(body) else {}
        if isinstance(problem.get("checks"), dict):
            return ApiRefused(f"not ready: {', '.join(name for name, ok in problem['checks'].items() if not ok)}")
        detail = problem.get("detail") or problem.get("title")
        if not detail:
            return ApiRefused(f"the server at {self.address} is not a runbridge daemon (HTTP {status})")
        fields = [f"{e.get('field')}: {e.get('message')}" for e in problem.get("errors") or [] if isinstance(e, dict)]
        is_wrong_use = status == 400 or bool(fields)
        return ApiRefused("; ".join(fields) if fields else str(detail), is_wrong_use=is_wrong_use)


class Patience:
    """Retries across a restart of the daemon: for GIVE_UP_AFTER_S once it has answered, not at all before."""

    def __init__(
        self, *, sleep: Callable[[float], None] = time.sleep, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._sleep = sleep
        self._monotonic = monotonic
        self._has_answered = False
        self._lost_at: float | None = None

    def reset(self) -> None:
        """Note an answer: the next loss may last GIVE_UP_AFTER_S again."""
        self._has_answered, self._lost_at = True, None

    def wait_or_raise(self, error: DaemonUnreachable) -> None:
        """Sleep one second before the next try, or raise `error` when it is time to give up."""
        if self._lost_at is None:
            self._lost_at = self._monotonic()
        if not self._has_answered or self._monotonic() - self._lost_at > GIVE_UP_AFTER_S:
            raise error
        self._sleep(1.0)

    def keep_trying(self, ask: Callable[[], T]) -> T:
        """The result of `ask`, which is called again while the daemon restarts."""
        while True:
            try:
                result = ask()
            except DaemonUnreachable as error:
                self.wait_or_raise(error)
            else:
                self.reset()
                return result


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the path instead of host and port."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _server_sent_events(response: http.client.HTTPResponse) -> Iterator[StreamedEvent]:
    """Yield the events of a stream; comments and other fields are skipped."""
    event_id, data = "", list[bytes]()
    while line := response.readline():
        field, _, value = line.rstrip(b"\r\n").partition(b":")
        value = value.removeprefix(b" ")
        if field == b"id":
            event_id = value.decode(errors="replace")
        elif field == b"data":
            data.append(value)
        elif not field and not value and data:
            yield StreamedEvent(event_id, b"\n".join(data))
            data = []


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False
