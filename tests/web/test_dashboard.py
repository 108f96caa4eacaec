"""The dashboard in Debian's Chromium: names, what each screen shows, and that nothing leaves the daemon."""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from bridge.sandbox import Scenario
from tests.support.daemon_setup import daemon_setup
from tests.support.dashboard import PAGES, Shown, follow, show, sign_in

ROOT = Path(__file__).resolve().parent.parent.parent
WEB = ROOT / "bridge" / "web"
HOSTILE = "<script>document.title='taken'</script>\u202eabc"
BIG = 12345678901234567890


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def hostile(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Page]:
    """The page, signed in, over a daemon with a run of each outcome; fails on any message and any foreign request."""
    said: list[str] = []
    async with (
        daemon_setup(tmp_path_factory.mktemp("web"), "dify") as setup,
        setup.daemon as daemon,
    ):
        for outcome in ("succeeded", "failed"):
            scenario = Scenario(duration_s=0, outcome=outcome)
            run = await setup.register(scenario, metadata={"big": BIG, "hostile": HOSTILE}, workflow_id="invoices")
            await daemon.finish_of(run["id"])
        page = await browser.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda sent: None if sent.url.startswith(daemon.url) else said.append(sent.url))
        await sign_in(page, daemon.url)
        yield page
        await page.close()
    assert said == []


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("name", PAGES)
async def test_each_link_of_the_navigation_opens_the_page_of_its_name(hostile: Page, name: str) -> None:
    page = hostile
    await follow(page, page.get_by_role("link", name=name, exact=True).first, name)
    await expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="session")
async def test_a_run_is_opened_from_its_first_cell_and_foreign_text_is_text(hostile: Page) -> None:
    page = hostile
    await show(page, re.sub("/(#.*)?$", "", page.url), Shown("failed runs", "runs?status=failed", "Runs"))
    link = page.locator("tbody td a").first
    run_id = await link.inner_text()
    await follow(page, link, run_id)
    metadata = page.get_by_role("group", name="metadata")
    await expect(metadata).to_contain_text(str(BIG))
    await expect(metadata).to_contain_text("<script>document.title='taken'</script>⟨202e⟩abc")
    await expect(page).to_have_title(f"{run_id} · runbridge")


def test_the_sizes_stay_within_their_budget() -> None:
    sizes = {path: len(gzip.compress(path.read_bytes())) for path in WEB.iterdir()}
    assert sum(size for path, size in sizes.items() if path.suffix == ".js") <= 60_000
    assert sizes[WEB / "style.css"] <= 12_000
    own = [path for path in WEB.glob("*.js") if path.name != "preact.js"]
    lengths = [len(path.read_text().splitlines()) for path in own]
    assert max(lengths) <= 300
    assert sum(lengths) <= 4_000
    assert _compressed(WEB.iterdir()) <= 150_000, "what it adds to the wheel"


def _compressed(paths: Iterable[Path]) -> int:
    """The bytes that these files take in a wheel, which is a zip file."""
    return sum(len(zlib.compress(path.read_bytes(), 6)) + 200 for path in paths)


def test_the_vendored_module_is_the_one_that_its_recipe_names() -> None:
    digest = hashlib.sha256((WEB / "preact.js").read_bytes()).hexdigest()
    assert digest in (ROOT / ".ci" / "vendor-preact").read_text()
