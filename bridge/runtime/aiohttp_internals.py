"""Everything that leans on private interfaces of aiohttp, in one file. Read on aiohttp 3.14.5.

Used here and nowhere else: `TCPConnector._factory` (makes the protocol of each connection), the methods of
`ResponseHandler` and `ClientRequest` that the classes below override, when each is called, and
`ClientSession._retry_connection`.
`tests/runtime/test_aiohttp_internals.py` fails when the source of any of them changes.

An `Exchange` holds what is known about one POST while it is under way: when each phase began, and with which peer.

    start ─ dns ─ connect ─ tls ─ request sent ─ first byte of the response ─ status line
"""

from __future__ import annotations

import asyncio
import functools
import re
import select
import ssl
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import StreamWriter
from aiohttp.http_exceptions import HttpProcessingError

INTERIM_RESPONSES_MAX: Final = 20
WHOLE_BYTES_MAX: Final = 32 * 1024  # half of what a transport holds before it asks to pause
OUT_OF_TURN_MAX: Final = 1000  # servers remembered
TLS_ALERT: Final = r"\x15\x03"  # begins a TLS alert, as aiohttp quotes it in the message of a ClientResponseError
RAW_BYTES_MAX: Final = 1024 * 1024  # of one response, head and framing included; 64 KiB of its body are wanted
_LINE_BYTES_MAX: Final = 8190  # aiohttp's own limit
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[0-9] ([1-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?\r?\n")
_CONTENT_LENGTH: Final = re.compile(rb"ontent-[Ll]ength: *([0-9]{1,15})\r\n")  # quick: begins with a literal
_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
_PHASES: Final = (
    ("dns", "dns_asked", "dns_answered"),
    ("connect", "dialled", "connected"),
    ("first_byte", "sent", "answered"),
)
_PHASES_TLS: Final = (
    ("dns", "dns_asked", "dns_answered"),
    ("connect", "dialled", "tls_begun"),
    ("tls", "tls_begun", "connected"),
    ("first_byte", "sent", "answered"),
)
current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


class Exchange:
    """One request's marks on the monotonic clock; a mark is absent until its moment has come."""

    def __init__(self) -> None:
        self._marks = {"start": time.monotonic()}
        self.peer: str | None = None
        self.status: int | None = None
        """From a complete status line, even if the rest of the response is unusable."""
        self.is_reused = False

    def mark(self, moment: str) -> None:
        """Note that `moment` is now; of two dials of one exchange the later counts."""
        self._marks[moment] = time.monotonic()

    def has(self, moment: str) -> bool:
        """Whether `moment` has come."""
        return moment in self._marks

    @property
    def is_in_handshake(self) -> bool:
        """Whether a TLS handshake has begun and not ended."""
        return "tls_begun" in self._marks and "connected" not in self._marks

    def note_peer(self, address: object) -> None:
        """Note the peer's address, a tuple as sockets return it."""
        if isinstance(address, tuple) and len(address) >= 2:
            host, port = address[0], address[1]
            self.peer = f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"

    def begin_again(self) -> None:
        """Discard the marks of the first try, except its start: the request is sent again on a new connection."""
        self._marks = {"start": self._marks["start"]}
        self.is_reused = False

    @property
    def phases(self) -> dict[str, int]:
        """Milliseconds of dns, connect, tls and first_byte; only phases that have ended."""
        marks, found = self._marks, dict[str, int]()
        for phase, begin, end in _PHASES_TLS if "tls_begun" in marks else _PHASES:
            if begin in marks and end in marks:
                found[phase] = max(0, round((marks[end] - marks[begin]) * 1000))
        return found

    @property
    def duration_ms(self) -> int:
        """Milliseconds since the start."""
        return round((time.monotonic() - self._marks["start"]) * 1000)


def mark(moment: str) -> None:
    """Note `moment` on the exchange of the running task, if there is one."""
    exchange = current.get()
    if exchange is not None:
        exchange.mark(moment)


def note_peer(address: object) -> None:
    """Note the dialled address on the exchange of the running task, if there is one."""
    exchange = current.get()
    if exchange is not None:
        exchange.note_peer(address)


class TimedContext(ssl.SSLContext):
    """A TLS context that marks when a handshake begins: aiohttp has no hook between connecting and TLS."""

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """As SSLContext."""
        mark("tls_begun")
        return super().wrap_bio(*args, **kwargs)


def client_tls(ca_file: str | None = None) -> TimedContext:
    """A context that checks certificate and host name and requires TLS 1.2 or newer.

    It trusts the system's authorities and those in `ca_file`, among which may be one that another has signed.
    """
    context = TimedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(("http/1.1",))  # as aiohttp's own
    context.load_default_certs()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


@functools.cache
def default_tls() -> TimedContext:
    """One `client_tls` for the whole process: reading the certificates takes a tenth of a second."""
    return client_tls()


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """The error and those that caused it, as aiohttp chains them."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        found = waiting.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        waiting += [found.__cause__, getattr(found, "os_error", None), getattr(found, "certificate_error", None)]


def tls_error_of(error: BaseException) -> ssl.SSLError | None:
    """The TLS error among the causes of `error`, if there is one."""
    found = (cause for cause in causes_of(error) if isinstance(cause, ssl.SSLError))
    return next((cause for cause in found if not isinstance(cause, aiohttp.ClientError)), None)


class Connector(aiohttp.TCPConnector):
    """A TCPConnector whose connections are instances of `protocol`.

    A server of which one connection spoke out of turn gets a new connection for each request.
    """

    def __init__(self, protocol: Callable[..., ResponseHandler], **options: Any) -> None:
        super().__init__(**options)
        self._factory = functools.partial(protocol, asyncio.get_running_loop(), set[object]())


def disable_retry(session: aiohttp.ClientSession) -> None:
    """Make `session` send a GET once only.

    By default aiohttp repeats one whose kept-alive connection broke, past our rate limit and the count of polls.
    """
    session._retry_connection = False  # noqa: SLF001 - aiohttp's own tests set it the same way


class WholeRequest(aiohttp.ClientRequest):
    """A request that goes out in one piece with its body, if that is small. For connections that are kept alive.

    aiohttp writes each body in a task of its own, in the next turn of the loop, which is a sixth of what a POST costs.
    Small means that the transport takes the body without a pause. The headers must name its `Content-Type`.
    """

    _whole: bytes | None = None

    def update_body_from_data(self, body: Any, _stacklevel: int = 3) -> None:
        """Set the body; called by the constructor."""
        if isinstance(body, bytes) and 0 < len(body) <= WHOLE_BYTES_MAX:
            self._whole = body
            self.headers["Content-Length"] = str(len(body))
        else:
            super().update_body_from_data(body, _stacklevel + 1)

    async def send(self, conn: Any) -> aiohttp.ClientResponse:
        """Send head and body on this connection; the response is still to be awaited."""
        if self._whole is None:
            return await super().send(conn)
        writer = StreamWriter(conn.protocol, self.loop)
        await writer.write_headers(f"{self.method} {self.url.raw_path_qs} HTTP/1.1", self.headers)
        await writer.write(self._whole, drain=False)  # with the head before it
        conn.protocol.start_timeout()
        return self.response_class(
            self.method,
            self.original_url,
            writer=None,
            continue100=None,
            timer=self._timer,
            request_info=self.request_info,
            traces=[],
            loop=self.loop,
            session=self.session,
            stream_writer=writer,
        )


class ClientProtocol(ResponseHandler):
    """The protocol of one connection: aiohttp's, but a response is never taken for the answer to another request.

    Bytes that arrive before a request or after its complete response close the connection. Otherwise a response that
    a gateway sends twice would answer the next request. `out_of_turn` holds the addresses of servers that did that; a
    connection to one of them is used once, because the next such bytes might arrive while a request is under way.
    """

    is_used = False
    """A request has been sent on this connection."""
    _is_encrypted = False
    _body: Any = None  # of the final response to the current request, once its head has been parsed
    _length: int | None = None  # of that response's body, as its head says
    _held = b""  # the last byte of a read, while aiohttp has set aside what came before it

    def __init__(self, loop: asyncio.AbstractEventLoop, out_of_turn: set[object]) -> None:
        super().__init__(loop)
        self._out_of_turn = out_of_turn
        self._peer: object = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The dial has succeeded, TLS included."""
        mark("connected")
        super().connection_made(transport)
        self._peer = transport.get_extra_info("peername")
        self._is_encrypted = transport.get_extra_info("ssl_object") is not None
        self._poll = select.poll()
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def is_connected(self) -> bool:
        """Whether the connection can be used again: it is open, and no bytes wait that the loop has not read yet."""
        is_trusted = not (self.is_used and self._peer in self._out_of_turn)
        return super().is_connected() and is_trusted and not self._poll.poll(0)

    def _is_answered(self) -> bool:
        return self._body is not None and self._body.is_eof()

    def set_response_params(self, **params: Any) -> None:
        """A new request is about to be sent on this connection; a CONNECT, which has no timer, was just sent."""
        may_wait = self._is_encrypted or "timer" not in params  # tickets of TLS; the answer of a quick proxy
        if not self.is_used and not may_wait and not self.is_connected():
            self._break_off()
        self.is_used = True
        self._body = self._length = None
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Bytes from the server; empty when aiohttp resumes parsing what it had set aside."""
        if not data:
            self._parse(data)
            self._parse_last()
        elif not self.is_used or (self._body is not None and self._body.is_eof()):
            self._break_off()
        elif (length := self._length_if_whole(data)) is not None:
            ResponseHandler.data_received(self, data)  # inline what most responses need: this runs for each read
            if self._body is not None and self._body.total_bytes != length and self._body.is_eof():
                self._break_off()
        else:
            self._held = data[-1:]
            if len(data) > 1:
                self._parse(data[:-1])
            self._parse_last()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Resume reading. aiohttp calls this after each chunk of a body, mostly where nothing was paused or set aside."""
        if self._reading_paused or self._buffer_paused:
            super().resume_reading(resume_parser)

    def _length_if_whole(self, data: bytes) -> int | None:
        """The length of the body if `data` ends with it, as most reads do; None if that is not known yet."""
        if self._body is not None:
            return self._length if self._body.total_bytes + len(data) == self._length else None
        end = data.find(b"\r\n\r\n") + 4
        found = _CONTENT_LENGTH.search(data, 0, end)
        return length if found and end + (length := int(found[1])) == len(data) else None

    def _parse(self, data: bytes) -> None:
        """Parse `data`, which does not go beyond the end of the response."""
        ResponseHandler.data_received(self, data)

    def _parse_last(self) -> None:
        """Parse the last byte of a read. A response that is complete before it is followed by a byte too many."""
        if not self._held or self._reading_paused or not super().is_connected():
            return
        if self._is_answered():
            self._break_off()
        else:
            last, self._held = self._held, b""
            self._parse(last)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """A head has been parsed; `data` is the message and its payload."""
        if self._body is not None:
            self._break_off()
            return
        if data[0].code >= 200 or data[0].code == 101:
            self._body = data[1]
            length = data[0].headers.get("Content-Length", "")
            self._length = int(length) if length.isdecimal() else None
        super().feed_data(data, size)

    def _break_off(self) -> None:
        if len(self._out_of_turn) >= OUT_OF_TURN_MAX:
            self._out_of_turn.clear()
        self._out_of_turn.add(self._peer)
        if self.transport is not None:
            self.transport.abort()


class EndlessResponse(aiohttp.ClientError):
    """The receiver keeps sending without completing a response."""


class WebhookProtocol(ClientProtocol):
    """The protocol of one connection to a subscriber, with four more precautions.

    1. The status line is noted as soon as it is complete: it decides the delivery, even if the rest is unusable.
    2. A head is parsed before the body behind it. Otherwise a fault in a body that arrives together with its head
       makes aiohttp discard both.
    3. Interim responses (1xx) are counted: endless ones would cost CPU until the deadline.
    4. All bytes of a response are counted: blank lines, chunk extensions and trailers add nothing to the body.
    """

    _exchange: Exchange | None = None
    _is_head_seen = False
    _interim_responses = 0
    _raw_bytes = 0
    _line = b""  # the status line so far
    _before = b""  # the last two bytes of a head so far

    def set_response_params(self, **params: Any) -> None:
        """A new request is about to be sent on this connection."""
        self._is_head_seen, self._interim_responses, self._raw_bytes = False, 0, 0
        self._line, self._before = b"", b""
        self._exchange = current.get()
        if self._exchange is not None and self.transport is not None:
            self._exchange.note_peer(self.transport.get_extra_info("peername"))
            self._exchange.is_reused = self.is_used
            self._exchange.mark("sent")
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Bytes from the receiver; empty when aiohttp resumes parsing what it had set aside."""
        self._raw_bytes += len(data)
        if self._raw_bytes > RAW_BYTES_MAX:
            self._refuse(f"more than {RAW_BYTES_MAX // 1024} KiB came without an end of the answer")
            return
        if data and not self._is_head_seen:
            if self._exchange is not None and not self._exchange.has("answered"):
                self._exchange.mark("answered")
            data = self._parse_heads(data)
            if not data:
                return
        super().data_received(data)

    def _parse_heads(self, data: bytes) -> bytes:
        """Parse the heads in `data` one at a time; return the bytes after the final one."""
        while not self._is_head_seen:
            data = data if self._line else data.lstrip(b"\r\n")
            self._note_status(data)
            end = self._end_of_head(data)
            interim_responses = self._interim_responses
            if data:
                self._parse(data[:end])
            if end is None or self.transport is None or self.transport.is_closing():
                return b""
            data = data[end:]
            if self._interim_responses == interim_responses:
                break  # a final head, or one whose end aiohttp sees elsewhere
        return data

    def _note_status(self, data: bytes) -> None:
        if self._line.endswith(b"\n") or len(self._line) > _LINE_BYTES_MAX:
            return
        self._line = (self._line + data[: data.find(b"\n") + 1 or len(data)])[: _LINE_BYTES_MAX + 1]
        found = _STATUS_LINE.fullmatch(self._line)
        if found and self._exchange is not None and int(found[1]) >= 200:
            self._exchange.status = int(found[1])

    def _end_of_head(self, data: bytes) -> int | None:
        """Where in `data` the present head ends; None if it continues."""
        found = _END_OF_HEAD.search(self._before + data)
        end = found and found.end() - len(self._before)
        self._before = (self._before + data[-2:])[-2:]
        return end

    def feed_data(self, data: Any, size: int = 0) -> None:
        """A head has been parsed; `data` is the message and its payload."""
        status = data[0].code
        self._is_head_seen = status >= 200 or status == 101
        if not self._is_head_seen:
            self._interim_responses += 1
            self._line, self._before = b"", b""
        if self._interim_responses <= INTERIM_RESPONSES_MAX:
            super().feed_data(data, size)
        else:
            self._refuse(f"more than {INTERIM_RESPONSES_MAX} interim answers (1xx)")

    def _refuse(self, reason: str) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.set_exception(EndlessResponse(reason))
            self.transport.abort()

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        """Fail the response; a body that is being read fails at once, not at its deadline."""
        payload = self._payload
        super().set_exception(exc, exc if exc_cause is None else exc_cause)
        if isinstance(exc, (HttpProcessingError, EndlessResponse)) and payload is not None and not payload.is_eof():
            payload.set_exception(aiohttp.ClientPayloadError("the body cannot be read"), exc)
