"""The receiving end of a connection to a subscriber: aiohttp's, with two precautions.

1. A head is parsed before the body behind it. In one piece, as they mostly arrive, a fault in the body would make
   aiohttp throw away the status line that was already there, and a delivered event would be sent again.
2. Interim answers (1xx) are counted: their endless repetition would cost us CPU until the deadline.
"""

from __future__ import annotations

from typing import Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

from bridge.workers.exchange import current

INTERIM_ANSWERS_MAX: Final = 20
_END_OF_HEAD: Final = b"\r\n\r\n"


class TooManyInterimAnswers(aiohttp.ClientError):
    """The receiver sends 1xx answers without end."""


class WaryHandler(ResponseHandler):
    """The protocol of one connection, for one request after another."""

    _is_head_seen = False
    _interim_answers = 0

    def set_response_params(self, **params: Any) -> None:
        """A new request is about to be sent on this connection."""
        self._is_head_seen, self._interim_answers = False, 0
        exchange = current.get()
        if exchange is not None and self.transport is not None:
            exchange.note_peer(self.transport.get_extra_info("peername"))
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Bytes from the receiver."""
        while not self._is_head_seen:
            end = data.find(_END_OF_HEAD) + len(_END_OF_HEAD)
            if end < len(_END_OF_HEAD) or end == len(data):
                break
            super().data_received(data[:end])
            if self.transport is None or self.transport.is_closing():
                return  # what came was no HTTP, or too much of it
            data = data[end:]
        super().data_received(data)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """A head has been parsed; `data` is the message and its payload."""
        status = data[0].code
        self._is_head_seen = status >= 200 or status == 101
        self._interim_answers += not self._is_head_seen
        if self._interim_answers <= INTERIM_ANSWERS_MAX:
            super().feed_data(data, size)
        elif self.transport is not None and not self.transport.is_closing():
            self.set_exception(TooManyInterimAnswers(f"more than {INTERIM_ANSWERS_MAX} interim answers (1xx)"))
            self.transport.abort()

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        """The connection is of no more use; a body that is being read learns of it at once, not at its deadline."""
        payload = self._payload
        super().set_exception(exc, exc if exc_cause is None else exc_cause)
        if isinstance(exc, HttpProcessingError) and payload is not None and not payload.is_eof():
            payload.set_exception(aiohttp.ClientPayloadError("the body cannot be read"), exc)
