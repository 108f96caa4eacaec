"""The four fake providers on one port: `Sandbox` is what the demo and the tests hold in their hands.

http://127.0.0.1:PORT/dibby · /retab · /dify · /instabase     base URLs of connections
http://127.0.0.1:PORT/_control                                see `control`
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

from aiohttp import web

from bridge.domain.clock import Clock, SystemClock
from bridge.domain.run import Json
from bridge.sandbox.control import Control
from bridge.sandbox.dibby import Dibby
from bridge.sandbox.dify import Dify
from bridge.sandbox.fake_provider import Dialect
from bridge.sandbox.http_server import Door
from bridge.sandbox.instabase import Instabase
from bridge.sandbox.retab import Retab
from bridge.sandbox.scenarios import Life
from bridge.sandbox.state import Fault, Limit, RequestSeen, World

SANDBOX_KEY: Final = "sandbox-key"
BODY_BYTES_MAX: Final = 64 * 1024 * 1024  # triggers carry whole documents as data URIs
DIALECTS: Final[tuple[type[Dialect], ...]] = (Dibby, Retab, Dify, Instabase)


class Sandbox:
    """Fake Dibby, Retab, Dify and Instabase. Runs may be added before or after `start`."""

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        api_key: str = SANDBOX_KEY,
        ib_context: str | None = None,
        dify_missing_is_null: bool = False,
        results_page_files: int = 2,
        sends_etags: bool = False,
        list_is_summary: bool = False,
    ) -> None:
        self.world = World(
            clock=clock or SystemClock(),
            api_key=api_key,
            ib_context=ib_context,
            dify_missing_is_null=dify_missing_is_null,
            results_page_files=results_page_files,
            sends_etags=sends_etags,
            list_is_summary=list_is_summary,
        )
        self._dialects = {dialect.name: dialect(self.world) for dialect in DIALECTS}
        self._door = Door()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> Self:
        """Listen; port 0 takes a free one."""
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        for name, dialect in self._dialects.items():
            app.add_subapp(f"/{name}", dialect.application())
        app.add_subapp("/_control", Control(self).application())
        await self._door.open(app, host, port)
        return self

    async def stop(self) -> None:
        """Let go of hanging requests and stop listening."""
        self.world.close()
        await self._door.close()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def origin(self) -> str:
        """`http://host:port`."""
        return self._door.origin

    @property
    def providers(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self._dialects)

    @property
    def requests(self) -> Sequence[RequestSeen]:
        """What was asked, oldest first (the last 100,000; `world.counts` counts all)."""
        return list(self.world.requests)

    def url(self, provider: str) -> str:
        """The base URL of a connection to this provider."""
        return f"{self._door.origin}/{self._dialect(provider).name}"

    def add_run(
        self,
        provider: str,
        *,
        life: Life | None = None,
        run_id: str | None = None,
        shape: str | None = None,
        workflow_id: str | None = None,
        late_404_s: float = 0.0,
        age_s: float = 0.0,
        inputs: dict[str, Json] | None = None,
        metadata: dict[str, str] | None = None,
    ) -> str:
        """A run that lives `life` and began `age_s` seconds ago; answers with its id.

        `shape`: Retab c, c-nested, b, a · Dify new, old, rfc822. For `late_404_s` seconds of its age it cannot
        be found. ValueError for a provider, shape or status word that does not exist.
        """
        run = self._dialect(provider).add_run(
            life or Life(),
            run_id=run_id,
            shape=shape,
            workflow_id=workflow_id,
            late_404_s=late_404_s,
            age_s=age_s,
            inputs=inputs,
            metadata=metadata,
        )
        return run.id

    def set_triggered_life(self, provider: str, life: Life) -> None:
        """What runs live from now on that clients trigger at this provider."""
        self._dialect(provider).check_life(life)
        self.world.lives[provider] = life

    def fail(
        self,
        provider: str | None,
        kind: str,
        count: int | None = 1,
        retry_after: str | int | None = None,
        *,
        run_id: str | None = None,
        path_contains: str | None = None,
        path_ends: str | None = None,
    ) -> None:
        """Let the next `count` matching requests go wrong (None: all of them, until `clear_faults`).

        `kind`: an HTTP status such as `500`, or `garbage`, `html`, `hang`, `reset`. Provider None means any.
        `retry_after` is sent as given: seconds, an HTTP date, or nonsense.
        aiohttp's client asks once more by itself when a kept connection breaks under a GET, so one `reset` may
        go unnoticed there; two do not.
        """
        name = None if provider is None else self._dialect(provider).name
        given = None if retry_after is None else str(retry_after)
        self.world.faults.append(Fault(kind, count, name, run_id, path_contains, given, path_ends))

    def clear_faults(self) -> None:
        """Nothing goes wrong any more; requests that hang are let go of."""
        self.world.clear_faults()

    def limit(
        self, provider: str, per_second: float | None, *, burst: float | None = None, is_announced: bool = True
    ) -> None:
        """Answer 429 beyond `per_second` requests (None lifts it); `burst` defaults to one second's worth.

        `is_announced` False leaves `Retry-After` out.
        """
        name = self._dialect(provider).name
        if per_second is None:
            self.world.limits.pop(name, None)
            return
        size = max(1.0, per_second if burst is None else burst)
        self.world.limits[name] = Limit(per_second, size, is_announced, size, self.world.clock.monotonic())

    def reset(self) -> None:
        """Forget runs, lives, faults, limits and what was asked."""
        self.world.reset()

    def _dialect(self, provider: str) -> Dialect:
        try:
            return self._dialects[provider]
        except KeyError:
            raise ValueError(f"there is no provider {provider}; there are {', '.join(self._dialects)}") from None
