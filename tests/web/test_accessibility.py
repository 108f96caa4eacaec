"""Every screen in every state and theme by axe-core, and what it cannot see: keys, focus, reflow, charts."""

from __future__ import annotations

import re
from typing import Literal

import pytest
from playwright.async_api import Browser, Page, Route, expect

from tests.support.daemon_setup import DaemonSetup
from tests.support.dashboard import PAGES, Shown, arrive, lists, show, sign_in, single_things

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
RULES = "['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']"
FINDINGS = (
    f"axe.run(document, {{runOnly: {RULES}}}).then(found => found.violations.map(one => [one.id, one.nodes[0].html]))"
)
DIALOGS = (
    ("runs", "Register"),
    ("runs", "Cancel all that match"),
    ("runs", "Stop watching all that match"),
    ("run", "Cancel run"),
    ("run", "Stop watching"),
    ("run", "Replay"),
    ("deliveries", "Retry all that match"),
    ("endpoints", "Add"),
    ("endpoint", "Replay"),
    ("archive", "Edit"),
    ("archive", "Rotate secret"),
    ("archive", "Delete"),
    ("events", "Replay"),
    ("event", "Replay"),
    ("replays", "Replay"),
    ("nodes", "End"),
)
SMALL = """[...document.querySelectorAll('button, a, input, select, summary')]
  .filter(one => one.checkVisibility() && !one.closest('p, .hidden, .skip'))
  .map(one => [one.outerHTML.slice(0, 80), one.getBoundingClientRect()])
  .filter(([, box]) => box.width > 0 && (box.width < 24 || box.height < 24)).map(([text]) => text)"""
OUTLINE = "getComputedStyle(document.activeElement).outlineStyle + ' ' + getComputedStyle(document.activeElement).outlineWidth"
FOCUS = "document.activeElement.tagName"


async def check(page: Page, axe: str, where: str) -> list[str]:
    """The findings of axe in each theme, with the place."""
    found = []
    await page.evaluate(axe)
    for scheme in SCHEMES:
        await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        found += [f"{where} {scheme}: {one}" for one in await page.evaluate(FINDINGS)]
    return found


async def test_axe_finds_nothing_on_full_screens(page: Page, full: DaemonSetup, axe: str) -> None:
    found = []
    for screen in [*lists(), *await single_things(full)]:
        await show(page, full.daemon.url, screen)
        found += await check(page, axe, screen.name)
    assert found == []


async def test_axe_finds_nothing_on_a_phone(page: Page, full: DaemonSetup, axe: str) -> None:
    """Tables are cards there."""
    await page.set_viewport_size({"width": 360, "height": 740})
    found = []
    for screen in [*lists(), *await single_things(full)]:
        await show(page, full.daemon.url, screen)
        found += await check(page, axe, screen.name)
    await page.set_viewport_size({"width": 1280, "height": 850})
    assert found == []


async def test_axe_finds_nothing_on_empty_screens_and_the_form(browser: Browser, empty: DaemonSetup, axe: str) -> None:
    page = await browser.new_page()
    await page.goto(empty.daemon.url)
    await expect(page.get_by_label("API token")).to_be_visible()
    found = await check(page, axe, "signed out")
    await sign_in(page, empty.daemon.url)
    for screen in lists():
        await show(page, empty.daemon.url, screen)
        found += await check(page, axe, screen.name)
    await page.close()
    assert found == []


async def test_axe_finds_nothing_on_screens_that_show_an_error(browser: Browser, full: DaemonSetup, axe: str) -> None:
    async def refuse(route: Route) -> None:
        problem = '{"type":"about:blank","title":"Unavailable","status":503,"detail":"the disk is full","errors":[]}'
        await route.fulfill(status=503, content_type="application/problem+json", body=problem)

    page = await browser.new_page()
    await sign_in(page, full.daemon.url)
    found = []
    screens = [*lists(), *await single_things(full)]
    await page.route(lambda url: "/v1/" in url and "/v1/session" not in url and "/stream" not in url, refuse)
    for screen in screens:
        await page.goto(f"{full.daemon.url}/#/{screen.address}")
        await page.reload()
        await expect(page.get_by_role("heading", level=1)).to_have_text(screen.heading)
        await expect(page.get_by_role("alert").first).to_contain_text("the disk is full")
        found += await check(page, axe, screen.name)
    await page.close()
    assert found == []


async def test_axe_finds_nothing_in_a_dialog_and_escape_returns_the_focus(
    page: Page, full: DaemonSetup, axe: str
) -> None:
    """A native dialog: the page behind it is out of reach, and closing it puts the focus where it was."""
    found = []
    open_run = (await full.daemon.ask("GET", "/v1/runs?state=open&limit=1"))["data"][0]["id"]
    things = {screen.name: screen for screen in [*lists(), *await single_things(full)]}
    things["run"] = things["run"]._replace(address=f"runs/{open_run}", heading=open_run)
    things["runs"] = things["runs"]._replace(address="runs?state=open")
    things["deliveries"] = things["deliveries"]._replace(address="deliveries?endpoint=billing")
    endpoints = (await full.daemon.ask("GET", "/v1/endpoints"))["data"]
    archive = next(one["id"] for one in endpoints if one["description"] == "Everything, for the archive")
    things["archive"] = Shown("archive", f"endpoints/{archive}", archive)
    for name, button in DIALOGS:
        await show(page, full.daemon.url, things[name])
        opener = page.locator("main").get_by_role("button", name=button, exact=True).first
        await opener.focus()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("dialog")).to_be_visible()
        found += await check(page, axe, f"{name}, {button}")
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("dialog")).to_have_count(0)
        await expect(opener).to_be_focused()
    await page.get_by_role("button", name="Keys", exact=True).click()
    found += await check(page, axe, "keys")
    await page.keyboard.press("Escape")
    assert found == []


async def test_keys_alone_lead_to_every_screen_a_row_and_an_action(page: Page, full: DaemonSetup) -> None:
    await show(page, full.daemon.url, next(lists()))
    for key, name in zip(
        "ordecvpn",
        ("Overview", "Runs", "Deliveries", "Endpoints", "Connections", "Events", "Replays", "Nodes"),
        strict=True,
    ):
        await page.keyboard.press("g")
        await page.keyboard.press(key)
        await arrive(page, name)
        await expect(page).to_have_title(f"{name} · runbridge")
        await expect(page.get_by_role("heading", level=1)).to_be_focused()
    await page.keyboard.press("g")
    await page.keyboard.press("d")
    await arrive(page, "Deliveries")
    await expect(page.get_by_role("heading", level=1)).to_be_focused()
    await page.keyboard.press("j")
    first = page.locator("tbody tr").first
    await expect(first.get_by_role("link").first).to_be_focused()
    assert (await page.evaluate(OUTLINE)) == "solid 2px"
    await page.keyboard.press("x")
    await expect(first.get_by_role("checkbox")).to_be_checked()
    await expect(page.get_by_role("button", name="Retry 1 selected")).to_be_enabled()
    await page.keyboard.press("Enter")
    await arrive(page, re.compile("dlv_"))
    await page.keyboard.press("Shift+R")
    await expect(page.get_by_role("dialog")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await page.keyboard.press("u")
    await arrive(page, "Deliveries")
    await page.keyboard.press("/")
    await expect(page.get_by_label("Event id")).to_be_focused()
    await page.keyboard.press("Escape")
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog")).to_contain_text("Single keys are on")
    await page.get_by_label("Single keys are on").uncheck()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await page.keyboard.press("g")
    await page.keyboard.press("r")
    assert await page.evaluate("location.hash") == "#/deliveries"
    await page.get_by_role("button", name="Keys", exact=True).click()
    await page.get_by_label("Single keys are on").check()
    await page.keyboard.press("Escape")


async def test_a_redraw_between_two_keys_loses_neither(page: Page, full: DaemonSetup) -> None:
    await show(page, full.daemon.url, next(lists()))
    await page.keyboard.press("g")
    await page.get_by_role("link", name="Runs", exact=True).first.dispatch_event("click")
    await arrive(page, "Runs")
    await page.keyboard.press("d")
    await arrive(page, "Deliveries")
    assert await page.evaluate("location.hash") == "#/deliveries"


async def test_screens_reflow_at_320_pixels_with_targets_of_24(page: Page, full: DaemonSetup) -> None:
    found = []
    for screen in [*lists(), *await single_things(full)]:
        await show(page, full.daemon.url, screen)
        for most, height in ((320, 640), (1280, 850)):
            await page.set_viewport_size({"width": most, "height": height})
            width = await page.evaluate("document.documentElement.scrollWidth")
            found += [f"{screen.name} is {width} pixels wide"] if width > most else []
            found += [f"{screen.name} at {most}: {small}" for small in await page.evaluate(SMALL)]
    assert found == []


async def test_tables_and_charts_say_what_they_are(page: Page, full: DaemonSetup) -> None:
    """Each table has a caption and column headers, each chart a name, and a state is a word beside its shape."""
    for screen in [*lists(), *await single_things(full)]:
        await show(page, full.daemon.url, screen)
        await expect(page.locator("table:not(:has(caption))")).to_have_count(0)
        await expect(page.locator("thead th:not([scope=col])")).to_have_count(0)
        await expect(page.locator("svg.chart:not([aria-label]), svg.plot:not([aria-label])")).to_have_count(0)
        await expect(page.locator("time:not([datetime])")).to_have_count(0)
        await expect(page.locator("[aria-live=polite]")).to_have_count(1)
        await expect(page.get_by_role("status")).to_have_count(1)
        words = await page.locator(".state").all_inner_texts()
        assert all(len(word.split()) > 1 for word in words), (screen.name, words)
    await show(page, full.daemon.url, (await single_things(full))[3])
    assert await page.locator("svg.plot .tick").count() > 0
    await page.get_by_text("As a table").click()
    await expect(page.get_by_role("table", name="Planned polls")).to_be_visible()


async def test_forced_colours_and_little_motion_are_heeded(page: Page, full: DaemonSetup) -> None:
    await page.emulate_media(forced_colors="active", reduced_motion="reduce")
    await show(page, full.daemon.url, next(lists()))
    fill = "getComputedStyle(document.querySelector('svg.chart rect')).fill"
    canvas = "(() => { const one = document.createElement('p'); one.style.color = 'CanvasText'; document.body.append(one); const color = getComputedStyle(one).color; one.remove(); return color; })()"
    assert await page.evaluate(fill) == await page.evaluate(canvas)
    moving = "document.getAnimations().length"
    assert await page.evaluate(moving) == 0
    await page.emulate_media(forced_colors="none", reduced_motion="no-preference")


async def test_a_token_that_reads_sees_everything_and_no_action(browser: Browser, full: DaemonSetup) -> None:
    secret = "a-reader-of-everything-0123456789"
    full.daemon.config["server.tokens.reader"] = {"token": secret, "scope": "read"}
    await full.daemon.reload()
    page = await browser.new_page()
    await sign_in(page, full.daemon.url, secret)
    found = []
    allowed = {"Pause", "Refresh", "Theme", "Keys", "Sign out", "Filter", "Newer", "Older", "Copy id", "Download all"}
    for screen in [*lists(), *await single_things(full)]:
        await show(page, full.daemon.url, screen)
        names = set(await page.locator("main button").all_inner_texts()) - allowed
        found += [f"{screen.name}: {name}" for name in names if name and not name.startswith("Copy")]
        await expect(page.locator("main input[type=checkbox]")).to_have_count(0)
    await page.close()
    assert found == []
    assert len(PAGES) == 8
