"""Pictures of every screen of the dashboard, in both themes and as wide as a phone: `make screenshots`.

`--readme FOLDER` makes the three of the README instead.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Literal

from playwright.async_api import Browser, Page, async_playwright

from tests.support.daemon_setup import DaemonSetup, daemon_setup
from tests.support.dashboard import ENDPOINTS, TABLES, Shown, fill, launch, lists, show, sign_in, single_things

ColorScheme = Literal["light", "dark"]
DESK, PHONE = (1280, 800), (360, 740)
KINDS: tuple[tuple[str, tuple[int, int], ColorScheme], ...] = (
    ("light", DESK, "light"),
    ("dark", DESK, "dark"),
    ("phone", PHONE, "light"),
    ("phone-dark", PHONE, "dark"),
)
README_WIDTH, README = 1120, {"overview": 760, "run": 840, "delivery": 760}


async def _page(browser: Browser, url: str, size: tuple[int, int], scheme: ColorScheme) -> Page:
    page = await browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    await sign_in(page, url)
    return page


async def _all(browser: Browser, setup: DaemonSetup, folder: Path) -> None:
    screens = [*lists(), *await single_things(setup)]
    for kind, size, scheme in KINDS:
        page = await _page(browser, setup.daemon.url, size, scheme)
        for screen in screens:
            await show(page, setup.daemon.url, screen)
            await page.screenshot(path=folder / f"{screen.name}-{kind}.png", full_page=True)
        await page.close()
    page = await browser.new_page(viewport={"width": PHONE[0], "height": PHONE[1]})
    await page.goto(setup.daemon.url)
    await page.get_by_label("API token").wait_for()
    await page.screenshot(path=folder / "sign-in-phone.png")


async def _readme(browser: Browser, setup: DaemonSetup, folder: Path) -> None:
    screens = {
        screen.name: screen for screen in [Shown("overview", "overview", "Overview"), *await single_things(setup)]
    }
    page = await _page(browser, setup.daemon.url, DESK, "light")
    for name, height in README.items():
        await page.set_viewport_size({"width": README_WIDTH, "height": height})
        await show(page, setup.daemon.url, screens[name])
        await page.screenshot(path=folder / f"{name}.png")


async def _main(folder: Path, *, is_readme: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        setups = daemon_setup(Path(scratch), endpoints=ENDPOINTS, **TABLES)
        async with setups as setup, setup.daemon, async_playwright() as playwright:
            await fill(setup)
            browser = await launch(playwright)
            await (_readme if is_readme else _all)(browser, setup, folder)
            await browser.close()
    sys.stdout.write(f"{len(list(folder.glob('*.png')))} pictures in {folder}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readme", action="store_true", help="only the three of the README")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    asyncio.run(_main(given.folder, is_readme=given.readme))
