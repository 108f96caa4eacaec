"""The control door of the receiver, for when it is a process of its own.

GET  /_received   what arrived: `?path=`, and `?skip=` that many
POST /_script     {"replies": [...], "always": {...}|null, "every": {"nth": 10, "reply": {...}}, "path"}
POST /_secrets    {"secret": "whsec_…", "path"}
POST /_reset      forget what arrived and every script
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from pydantic import Field

from bridge.domain.timestamps import format_instant
from bridge.sandbox.control import Body, read_body, refuse_bad_bodies
from bridge.sandbox.fake_provider import Handler, whole_number
from bridge.sandbox.received import Received, Reply, ReplyKind

if TYPE_CHECKING:
    from bridge.sandbox.receiver import Receiver


class ReplyBody(Body):
    """One answer."""

    status: int = Field(default=204, ge=200, le=599)
    kind: ReplyKind = ReplyKind.ANSWER
    delay_s: float = Field(default=0, ge=0)
    headers: dict[str, str] = Field(default_factory=dict)
    body: str = ""

    def to_reply(self) -> Reply:
        """The reply it describes."""
        return Reply(**self.model_dump())


class EveryBody(Body):
    """An answer for every nth request."""

    nth: int = Field(ge=1)
    reply: ReplyBody


class ScriptBody(Body):
    """What to answer; a key left out leaves that part as it is."""

    replies: list[ReplyBody] = Field(default_factory=list)
    always: ReplyBody | None = None
    every: EveryBody | None = None
    path: str | None = None


class SecretBody(Body):
    """A secret to accept."""

    secret: str
    path: str | None = None


def control_routes(receiver: Receiver) -> list[web.RouteDef]:
    """The routes over one receiver."""

    async def show(request: web.Request) -> web.Response:
        path, skip = request.query.get("path"), whole_number(request.query.get("skip"), 0) or 0
        wanted = [one for one in receiver.received if path in (None, one.path)]
        return web.json_response({"count": len(wanted), "data": [_shown(one) for one in wanted[skip:]]})

    async def script(request: web.Request) -> web.Response:
        body = await read_body(request, ScriptBody)
        receiver.script(*(reply.to_reply() for reply in body.replies), path=body.path)
        if "always" in body.model_fields_set:
            receiver.always(body.always.to_reply() if body.always else None, path=body.path)
        if "every" in body.model_fields_set:
            receiver.every(*((body.every.nth, body.every.reply.to_reply()) if body.every else (1, None)))
        return web.Response(status=204)

    async def add_secret(request: web.Request) -> web.Response:
        body = await read_body(request, SecretBody)
        receiver.add_secret(body.secret, path=body.path)
        return web.Response(status=204)

    async def reset(_request: web.Request) -> web.Response:
        receiver.reset()
        return web.Response(status=204)

    return [
        web.get("/_received", show),
        web.post("/_script", _judged(script)),
        web.post("/_secrets", _judged(add_secret)),
        web.post("/_reset", reset),
    ]


def _judged(handler: Handler) -> Handler:
    async def judged(request: web.Request) -> web.StreamResponse:
        return await refuse_bad_bodies(request, handler)

    return judged


def _shown(one: Received) -> dict[str, object]:
    return {
        "at": format_instant(one.at),
        "path": one.path,
        "headers": one.headers,
        "body": one.body.decode("utf-8", "replace"),
        "verified": one.verified,
        "status": one.status,
    }
