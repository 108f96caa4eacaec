"""A web server for one CGI script (RFC 3875), as far as a receiver of webhooks needs one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Self

from aiohttp import web


class CgiServer:
    """POSTs to any path run `script`; `env` is added to what the request gives it."""

    def __init__(self, script: Path, env: dict[str, str]) -> None:
        self._script = script
        self._env = env
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/{path:.*}", self._serve)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/hooks"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in request.headers.items()}
        script = await asyncio.create_subprocess_exec(
            "sh",
            str(self._script),
            env={**self._env, **headers, "REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(len(body))},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert script.stdin is not None
        assert script.stdout is not None
        script.stdin.write(body)  # and left open, as servers do: CONTENT_LENGTH says where the body ends
        answer = await script.stdout.read()
        code = await script.wait()
        script.stdin.close()
        head = answer.decode().partition("\r\n\r\n")[0]
        if code != 0 or not head.startswith("Status: "):
            return web.Response(status=500)
        return web.Response(status=int(head.removeprefix("Status: ").split()[0]))
