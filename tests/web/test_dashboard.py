"""The dashboard in Debian's Chromium: names, what each screen shows, and that nothing leaves the daemon."""

from __future__ import annotations

import gzip
import hashlib
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Page, async_playwright, expect

from bridge.sandbox import Scenario
from tests.support.daemon_setup import daemon_setup
from tests.support.dashboard import PAGES, launch, sign_in

ROOT = Path(__file__).resolve().parent.parent.parent
WEB = ROOT / "bridge" / "web"
HOSTILE = "<script>document.title='taken'</script>\u202eabc"
BIG = 12345678901234567890
AXE = "axe-core@4.14.1"
RULES = "['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']"
FINDINGS = (
    f"axe.run(document, {{runOnly: {RULES}}}).then(found => found.violations.map(one => [one.id, one.nodes[0].html]))"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def page(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Page]:
    """The page, signed in, over a daemon with a run of each outcome; fails on any message and any foreign request."""
    said: list[str] = []
    async with (
        daemon_setup(tmp_path_factory.mktemp("web"), "dify") as setup,
        setup.daemon as daemon,
        async_playwright() as playwright,
    ):
        for outcome in ("succeeded", "failed"):
            scenario = Scenario(duration_s=0, outcome=outcome)
            run = await setup.register(scenario, metadata={"big": BIG, "hostile": HOSTILE}, workflow_id="invoices")
            await daemon.finish_of(run["id"])
        browser = await launch(playwright)
        page = await browser.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda sent: None if sent.url.startswith(daemon.url) else said.append(sent.url))
        await sign_in(page, daemon.url)
        yield page
        await browser.close()
    assert said == []


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", PAGES)
async def test_each_link_of_the_navigation_opens_the_page_of_its_name(page: Page, name: str) -> None:
    await page.get_by_role("link", name=name, exact=True).first.click()
    await expect(page.get_by_role("heading", level=1)).to_have_text(name)
    await expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
async def test_a_run_is_opened_from_its_first_cell_and_foreign_text_is_text(page: Page) -> None:
    await page.goto(re.sub("#.*", "", page.url) + "#/runs?status=failed")
    link = page.locator("tbody td a").first
    run_id = await link.inner_text()
    await link.click()
    await expect(page.get_by_role("heading", level=1)).to_have_text(run_id)
    metadata = page.get_by_role("group", name="metadata")
    await expect(metadata).to_contain_text(str(BIG))
    await expect(metadata).to_contain_text("<script>document.title='taken'</script>⟨202e⟩abc")
    await expect(page).to_have_title(f"{run_id} · runbridge")


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", PAGES)
async def test_no_page_is_wider_than_a_phone_of_320_pixels(page: Page, name: str) -> None:
    await page.set_viewport_size({"width": 320, "height": 640})
    await page.get_by_role("link", name=name, exact=True).first.click()
    await expect(page.locator("main table, main .empty").last).to_be_visible()
    assert await page.evaluate("document.documentElement.scrollWidth") <= 320


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script that checks a page for what people with disabilities stumble over."""
    folder = tmp_path_factory.mktemp("axe")
    install = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(folder), AXE]
    subprocess.run(install, check=True, timeout=180)
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
async def test_axe_finds_nothing_on_a_page(page: Page, axe: str, name: str, scheme: str) -> None:
    await page.set_viewport_size({"width": 1280, "height": 850})
    await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    await page.get_by_role("link", name=name, exact=True).first.click()
    await expect(page.locator("main table, main .empty").last).to_be_visible()
    await page.evaluate(axe)
    assert await page.evaluate(FINDINGS) == []


def test_the_sizes_stay_within_their_budget() -> None:
    sizes = {path: len(gzip.compress(path.read_bytes())) for path in WEB.iterdir()}
    assert sum(size for path, size in sizes.items() if path.suffix == ".js") <= 60_000
    assert sizes[WEB / "style.css"] <= 12_000
    own = [path for path in WEB.glob("*.js") if path.name != "preact.js"]
    assert max(len(path.read_text().splitlines()) for path in own) <= 300


def test_the_vendored_module_is_the_one_that_its_recipe_names() -> None:
    digest = hashlib.sha256((WEB / "preact.js").read_bytes()).hexdigest()
    assert digest in (ROOT / ".ci" / "vendor-preact").read_text()
