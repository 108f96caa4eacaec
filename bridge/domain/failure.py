"""Why polls fail."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from bridge.domain.frozen import frozen


class FailureKind(StrEnum):
    """Why a poll failed. A failure is never a status of the run."""

    TIMEOUT = "timeout"
    CONNECT = "connect"
    TLS = "tls"
    DNS = "dns"
    TRANSPORT = "transport"
    SERVER_ERROR = "server_error"
    THROTTLED = "throttled"
    UNAUTHORIZED = "unauthorized"
    REJECTED = "rejected"
    BAD_PAYLOAD = "bad_payload"
    NOT_FOUND = "not_found"
    GATEWAY = "gateway"  # the answer is not the provider's: a web page, a redirect to a login, a gateway's 404


@frozen
class LastError:
    """The latest of `count` failed polls since the last one that could be read."""

    at: datetime
    kind: FailureKind
    message: str
    count: int
