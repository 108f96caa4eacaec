"""Talking to the running daemon: one HTTP call at a time, and the event stream.

Plain `http.client`: a command makes a call or two and ends, and proxies in the environment are none of its business.
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
from bridge.cli.where import DaemonAddress
from bridge.domain.errors import BridgeError

TIMEOUT_S: Final = 30.0
SILENCE_MAX_S: Final = 45.0  # three missed heartbeats of the event stream
BODY_BYTES_MAX: Final = 64 * 1024 * 1024
GIVE_UP_AFTER_S: Final = 60.0  # a daemon that restarts is back long before

T = TypeVar("T")
Object = dict[str, Any]


class DaemonUnreachable(BridgeError):
    """Nobody answers where the daemon should be."""


class ApiRefused(BridgeError):
    """The daemon answered that it will not; `is_wrong_use` when what was asked was malformed."""

    def __init__(self, message: str, *, is_wrong_use: bool = False) -> None:
        self.is_wrong_use = is_wrong_use
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class ClientResponse:
    """What the daemon said: its status and the exact bytes of its JSON."""

    status: int
    body: bytes

    def object(self) -> Object:
        """The body as an object; {} where there is none (204)."""
        return cast("Object", json.loads(self.body)) if self.body else {}

    def rows(self) -> list[Object]:
        """The `data` of a list."""
        return cast("list[Object]", self.object().get("data", []))


@dataclass(frozen=True, slots=True)
class StreamedEvent:
    """One event from the stream: its id, and its body exactly as webhooks carry it."""

    id: str
    body: bytes


class Client:
    """Calls to the daemon at `address`. Every method raises DaemonUnreachable or ApiRefused."""

    def __init__(self, address: DaemonAddress) -> None:
        self.address = address

    def get(self, *path: str, timeout_s: float = TIMEOUT_S, **query: object) -> ClientResponse:
        """GET; parts of `path` are escaped, None in `query` is left out, a list repeats its key."""
        return self._call("GET", path, query, None, timeout_s)

    def post(self, *path: str, body: Object | None = None, timeout_s: float = TIMEOUT_S) -> ClientResponse:
        """POST `body` as JSON."""
        return self._call("POST", path, {}, body if body is not None else {}, timeout_s)

    def delete(self, *path: str) -> ClientResponse:
        """DELETE."""
        return self._call("DELETE", path, {}, None, TIMEOUT_S)

    def stream_events(self, *, after: str | None, types: list[str] | None = None) -> Iterator[StreamedEvent]:
        """Events as they are recorded, for ever; a lost connection is taken up again where it broke."""
        patience = Patience()
        while True:
            try:
                for event in self._stream_once(after, types, patience):
                    after = event.id
                    yield event
                patience.lost(DaemonUnreachable(f"the daemon at {self.address} closed the event stream"))
            except DaemonUnreachable as error:
                patience.lost(error)

    def _stream_once(self, after: str | None, types: list[str] | None, patience: Patience) -> Iterator[StreamedEvent]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
        with self._reaching(), contextlib.closing(self._connection(SILENCE_MAX_S)) as connection:
            target = self._target(("v1", "events", "stream"), {"type": types})
            connection.request("GET", target, headers=self._headers() | headers)
            response = connection.getresponse()
            if response.status != 200:
                raise self._refusal(response.status, response.read(BODY_BYTES_MAX))
            patience.answered()
            yield from _server_sent_events(response)

    def _call(
        self, method: str, path: tuple[str, ...], query: Object, body: Object | None, timeout_s: float
    ) -> ClientResponse:
        headers = self._headers()
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        with self._reaching(), contextlib.closing(self._connection(timeout_s)) as connection:
            connection.request(method, self._target(path, query), body=content, headers=headers)
            response = connection.getresponse()
            answer = ClientResponse(response.status, response.read(BODY_BYTES_MAX))
        if answer.status >= 300:
            raise self._refusal(answer.status, answer.body)
        if answer.body and not _is_object(answer.body):
            raise ApiRefused(f"what answers at {self.address} is not a runbridge daemon")
        return answer

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
        given = {key: value for key, value in query.items() if value not in (None, [], ())}
        shown = "/".join(quote(part, safe="") for part in path)
        return f"{self.address.prefix}/{shown}" + (f"?{urlencode(given, doseq=True)}" if given else "")

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        """Turn what the socket says into the one sentence about an unreachable daemon."""
        try:
            yield
        except TimeoutError as error:
            raise self._unreachable("it does not answer in time") from error
        except ssl.SSLError as error:
            raise self._unreachable(f"TLS failed: {error.reason or 'no details'}") from error
        except OSError as error:
            raise self._unreachable((error.strerror or str(error) or type(error).__name__).lower()) from error
        except http.client.HTTPException as error:
            raise self._unreachable(f"what answers there does not speak HTTP: {type(error).__name__}") from error

    def _unreachable(self, why: str) -> DaemonUnreachable:
        return DaemonUnreachable(
            f"no daemon at {self.address} ({why}; the address comes from {self.address.origin}); "
            "start it with `runbridge serve`, or name another address with --url"
        )

    def _refusal(self, status: int, body: bytes) -> ApiRefused:
        if status == 401:
            wants = f"the daemon at {self.address} wants another token ({self.address.token_from})"
            return ApiRefused(f"{wants}; give --token or set RUNBRIDGE_TOKEN")
        problem = json.loads(body) if _is_object(body) else {}
        if isinstance(problem.get("checks"), dict):
            return ApiRefused(f"not ready: {', '.join(name for name, ok in problem['checks'].items() if not ok)}")
        detail = problem.get("detail") or problem.get("title")
        if not detail:
            return ApiRefused(f"what answers at {self.address} is not a runbridge daemon (HTTP {status})")
        fields = [f"{e.get('field')}: {e.get('message')}" for e in problem.get("errors") or [] if isinstance(e, dict)]
        is_wrong_use = status == 400 or bool(fields)
        return ApiRefused("; ".join(fields) if fields else str(detail), is_wrong_use=is_wrong_use)


class Patience:
    """How long to put up with a daemon that has answered before and is gone now; none with one that never did."""

    def __init__(
        self, *, sleep: Callable[[float], None] = time.sleep, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._sleep = sleep
        self._monotonic = monotonic
        self._has_answered = False
        self._lost_at: float | None = None

    def answered(self) -> None:
        """It is there."""
        self._has_answered, self._lost_at = True, None

    def lost(self, error: DaemonUnreachable) -> None:
        """Wait a moment before the next try, or raise `error`."""
        if self._lost_at is None:
            self._lost_at = self._monotonic()
        if not self._has_answered or self._monotonic() - self._lost_at > GIVE_UP_AFTER_S:
            raise error
        self._sleep(1.0)

    def keep_trying(self, ask: Callable[[], T]) -> T:
        """The answer to `ask`, across a restart of the daemon."""
        while True:
            try:
                answer = ask()
            except DaemonUnreachable as error:
                self.lost(error)
            else:
                self.answered()
                return answer


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket's path instead of host and port."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _server_sent_events(response: http.client.HTTPResponse) -> Iterator[StreamedEvent]:
    """The events in a stream; comments and other fields are passed over."""
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
