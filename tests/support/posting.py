"""One POST of a sender to a raw server."""

from __future__ import annotations

from typing import Any

from bridge.delivery.sender import Sender
from bridge.domain.addresses.policy import AddressPolicy, AllowRule, Trust
from bridge.domain.delivery import PostResult
from tests.support.raw_server import RawServer, raw_server, says

LOOPBACK = {trust: AddressPolicy(trust, allow=(AllowRule.parse("127.0.0.0/8"),)) for trust in Trust}


async def post(
    sender: Sender,
    raw: RawServer,
    path: str = "/hooks",
    *,
    trust: Trust = Trust.API,
    host: str = "127.0.0.1",
    **options: Any,
) -> PostResult:
    """The result of one POST to `raw`."""
    options = {"headers": {"webhook-id": "evt_1"}, "body": b'{"a":1}', **options}
    return await sender.post(f"http://{host}:{raw.port}{path}", trust=trust, **options)


async def post_for(sender: Sender, data: bytes, **options: Any) -> PostResult:
    """The result of one POST to a server that sends `data` and closes."""
    async with raw_server(says(data, then_closes=True)) as raw:
        return await post(sender, raw, **options)
