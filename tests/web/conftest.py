"""One Chromium for all tests of the dashboard, and daemons to view: full, empty, and for a token that only reads."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright

from tests.support.daemon_setup import DaemonSetup, daemon_setup
from tests.support.dashboard import ENDPOINTS, TABLES, fill, launch, sign_in

AXE = "axe-core@4.14.1"


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Chromium without a window."""
    async with async_playwright() as playwright:
        started = await launch(playwright)
        yield started
        await started.close()


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def full(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DaemonSetup]:
    """A daemon with something on every screen."""
    async with (
        daemon_setup(tmp_path_factory.mktemp("full"), "dify", endpoints=ENDPOINTS, **TABLES) as setup,
        setup.daemon,
    ):
        await fill(setup)
        yield setup


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def empty(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DaemonSetup]:
    """A daemon to which nothing has happened yet; its token `reader` only reads."""
    folder = tmp_path_factory.mktemp("empty")
    reader = {"token": READER, "scope": "read"}
    tables = {"server.tokens.reader": reader}
    async with daemon_setup(folder, "dify", endpoints=(), **tables) as setup, setup.daemon:
        yield setup


READER = "a-token-that-only-reads-0123456789"


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def page(browser: Browser, full: DaemonSetup) -> AsyncIterator[Page]:
    """A page of the full daemon, signed in. Each test goes to the screen it needs."""
    opened = await browser.new_page(viewport={"width": 1280, "height": 850})
    await sign_in(opened, full.daemon.url)
    yield opened
    await opened.close()


@pytest_asyncio.fixture(loop_scope="session")
async def own_page(browser: Browser, full: DaemonSetup) -> AsyncIterator[Page]:
    """A page with a session of its own: other tests end every session that is open."""
    opened = await browser.new_page()
    await sign_in(opened, full.daemon.url)
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
def npm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which npm has installed what the tests of the scripts need."""
    folder = tmp_path_factory.mktemp("npm")
    (folder / "package.json").write_text('{"private": true}')
    packages = [AXE, "typescript@5.9.3", "openapi-typescript@7.10.1"]
    install = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(folder), *packages]
    subprocess.run(install, check=True, timeout=300)
    return folder / "node_modules"


@pytest.fixture(scope="session")
def axe(npm: Path) -> str:
    """The script that checks a page for what people with disabilities stumble over."""
    return (npm / "axe-core" / "axe.min.js").read_text()
