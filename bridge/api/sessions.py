"""Signing in to the dashboard and out again; one-time links; the sessions that are open."""

from __future__ import annotations

import asyncio

from bridge.api.authentication import CALLER, Caller, check_same_origin, clear_cookie, new_secret, set_cookie
from bridge.api.context import Request, RequestContext, Response
from bridge.api.dashboard_response_models import LinkAnswer, SessionAnswer, SessionList, SessionRow
from bridge.api.problem import Refusal
from bridge.api.request_models import NoBody, NoQuery, SessionBody
from bridge.domain.api_token import ApiToken
from bridge.domain.errors import InvalidInput, NotFound, Problem
from bridge.domain.ids import new_id
from bridge.store import sessions
from bridge.store.transaction import Tx


async def sign_in(context: RequestContext, request: Request[SessionBody]) -> Response:
    """Open a session of the dashboard with a token, or with the secret of a one-time link.

    The answer sets a cookie that is HttpOnly and SameSite=Strict; it has the token's scope. Wrong tries are answered
    more and more slowly.
    """
    context.rules.check_dashboard()
    if request.http.headers.get("Sec-Fetch-Site", "none") != "none":
        check_same_origin(request.http)
    if (request.data.token is None) is (request.data.link is None):
        raise InvalidInput([Problem("token", "give either this or link, not both")])
    context.wrong_tries.begin(request.http)
    try:
        token = await _token_of(context, request.data)
        if token is None:
            await asyncio.sleep(context.wrong_tries.note(request.http, "sign_in"))
            what = "token is wrong" if request.data.link is None else "link was used already, or is older than a minute"
            raise Refusal(401, f"the {what}; {_REMEDY}")
    finally:
        context.wrong_tries.end(request.http)
    secret, session_id = new_secret(), new_id("ses")
    (stored,) = context.rules.tokens.hashes(secret, token.name)

    def work(tx: Tx) -> sessions.Session | None:
        sessions.create(tx, session_id=session_id, secret_hash=stored, token_name=token.name)
        return sessions.find(tx, [stored])

    row = await context.database.write(work)
    answer = _shown(context, Caller(token.name, context.authentication.scope_in_session(token), row))
    return Response(201, answer.to_bytes(), headers=set_cookie(request.http, secret))


_REMEDY = "use [server] api_token, a token of [server.tokens], or a link that `runbridge dashboard` prints"


async def _token_of(context: RequestContext, body: SessionBody) -> ApiToken | None:
    if body.link is None:
        return context.rules.tokens.find((body.token or "").strip())
    hashes = context.rules.tokens.hashes(body.link)
    name = await context.database.write(lambda tx: sessions.use_link(tx, hashes))
    return None if name is None else context.rules.tokens.by_name(name)


async def show_session(context: RequestContext, request: Request[NoQuery]) -> Response:
    """Show the caller: name and scope of its token, and its session if it has one."""
    return Response.of(200, _shown(context, request.http[CALLER]))


async def sign_out(context: RequestContext, request: Request[NoQuery]) -> Response:
    """End the session of this cookie; the browser forgets it."""
    session = request.http[CALLER].session
    if session is not None:
        await context.database.write(lambda tx: sessions.remove(tx, session.id))
    return Response(204, headers=clear_cookie(request.http))


async def make_link(context: RequestContext, request: Request[NoBody]) -> Response:
    """Make a secret that opens one session within a minute, as `#sign-in=SECRET` behind the dashboard's address."""
    context.rules.check_dashboard()
    caller = request.http[CALLER]
    if caller.session is not None:
        raise Refusal(403, "a session makes no links, or it would never end; send the token itself")
    secret = new_secret()
    (stored,) = context.rules.tokens.hashes(secret, caller.name)
    expires_at = await context.database.write(
        lambda tx: sessions.create(
            tx, session_id=new_id("ses"), secret_hash=stored, token_name=caller.name, is_link=True
        )
    )
    return Response.of(201, LinkAnswer(link=secret, fragment=f"#sign-in={secret}", expires_at=expires_at))


async def list_sessions(context: RequestContext, _request: Request[NoQuery]) -> Response:
    """List the open sessions, newest first."""
    shown = [SessionRow.model_validate(each) for each in await context.database.read(sessions.list_sessions)]
    return Response.of(200, SessionList(data=shown, next_cursor=None))


async def end_session(context: RequestContext, request: Request[NoQuery]) -> Response:
    """End a session, whichever browser has it."""
    if not await context.database.write(lambda tx: sessions.remove(tx, request.id())):
        raise NotFound(f"there is no session {request.id()}, or it has ended")
    return Response(204)


def _shown(context: RequestContext, caller: Caller) -> SessionAnswer:
    session = caller.session
    return SessionAnswer(
        id=None if session is None else session.id,
        token=caller.name,
        scope=caller.scope,
        read_only=context.rules.dashboard.read_only,
        created_at=None if session is None else session.created_at,
        expires_at=None if session is None else session.expires_at,
        version=context.version,
    )
