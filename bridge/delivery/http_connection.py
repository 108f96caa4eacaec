"""The receiving end of a connection to a subscriber: aiohttp's, with four precautions.

1. The status line is noted as soon as it is whole: with it a delivery is decided, whatever becomes of the rest.
2. A head is parsed before the body behind it. In one piece, as they mostly arrive, a fault in the body would make
   aiohttp throw away the head that was already there.
3. Interim answers (1xx) are counted: their endless repetition would cost us CPU until the deadline.
4. So are all bytes of an answer: blank lines, chunk extensions and trailers may go on for ever without adding to it.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

from bridge.delivery.exchange import Exchange, current, mark

INTERIM_ANSWERS_MAX: Final = 20
RAW_BYTES_MAX: Final = 1024 * 1024  # of one answer, head and framing included; 64 KiB of its body are wanted
_LINE_BYTES_MAX: Final = 8190  # aiohttp's own limit
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[0-9] ([1-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?\r?\n")
_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")


class EndlessAnswer(aiohttp.ClientError):
    """The receiver sends on and on without coming to the point."""


class WaryHandler(ResponseHandler):
    """The protocol of one connection, for one request after another."""

    _exchange: Exchange | None = None
    _is_used = False  # by an earlier request
    _is_head_seen = False
    _interim_answers = 0
    _raw_bytes = 0
    _line = b""  # the status line so far
    _before = b""  # the last two bytes of a head so far

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The dial has succeeded, TLS included."""
        mark("connected")
        super().connection_made(transport)

    def set_response_params(self, **params: Any) -> None:
        """A new request is about to be sent on this connection."""
        self._is_head_seen, self._interim_answers, self._raw_bytes = False, 0, 0
        self._line, self._before = b"", b""
        self._exchange = current.get()
        if self._exchange is not None and self.transport is not None:
            self._exchange.note_peer(self.transport.get_extra_info("peername"))
            self._exchange.is_reused = self._is_used
            self._exchange.mark("sent")
        self._is_used = True
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Bytes from the receiver; none when aiohttp goes on with what it put aside."""
        self._raw_bytes += len(data)
        if self._raw_bytes > RAW_BYTES_MAX:
            self._refuse(f"more than {RAW_BYTES_MAX // 1024} KiB came without an end of the answer")
            return
        if data and not self._is_head_seen:
            if self._exchange is not None and not self._exchange.has("answered"):
                self._exchange.mark("answered")
            data = self._take_heads(data)
            if not data:
                return
        super().data_received(data)

    def _take_heads(self, data: bytes) -> bytes:
        """Hand on what belongs to heads, one at a time; what comes behind the last of them."""
        while not self._is_head_seen:
            data = data if self._line else data.lstrip(b"\r\n")
            self._note_status(data)
            end = self._end_of_head(data)
            interim_answers = self._interim_answers
            if data:
                super().data_received(data[:end])
            if end is None or self.transport is None or self.transport.is_closing():
                return b""
            data = data[end:]
            if self._interim_answers == interim_answers:
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
        """Where in `data` the present head ends, None if it goes on."""
        found = _END_OF_HEAD.search(self._before + data)
        end = found and found.end() - len(self._before)
        self._before = (self._before + data[-2:])[-2:]
        return end

    def feed_data(self, data: Any, size: int = 0) -> None:
        """A head has been parsed; `data` is the message and its payload."""
        status = data[0].code
        self._is_head_seen = status >= 200 or status == 101
        if not self._is_head_seen:
            self._interim_answers += 1
            self._line, self._before = b"", b""
        if self._interim_answers <= INTERIM_ANSWERS_MAX:
            super().feed_data(data, size)
        else:
            self._refuse(f"more than {INTERIM_ANSWERS_MAX} interim answers (1xx)")

    def _refuse(self, reason: str) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.set_exception(EndlessAnswer(reason))
            self.transport.abort()

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        """The connection is of no more use; a body that is being read learns of it at once, not at its deadline."""
        payload = self._payload
        super().set_exception(exc, exc if exc_cause is None else exc_cause)
        if isinstance(exc, (HttpProcessingError, EndlessAnswer)) and payload is not None and not payload.is_eof():
            payload.set_exception(aiohttp.ClientPayloadError("the body cannot be read"), exc)
