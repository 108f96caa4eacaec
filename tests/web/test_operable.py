"""Checks that axe-core does not make: every control by Tab with its focus seen, contrast of lines, few announcements."""

from __future__ import annotations

from itertools import pairwise

import pytest
from playwright.async_api import Page, expect

from tests.support.daemon_setup import DaemonSetup
from tests.support.dashboard import Shown, lists, show, single_things

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

RATIO = """(() => {
  const context = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  const light = (color) => {
    context.fillStyle = color;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].map((one) => (one / 255 <= 0.04045 ? one / 255 / 12.92 : ((one / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  window.isSolid = (color) => color !== "none" && color !== "transparent" && !/(, |\\/ )0\\)$/.test(color);
  window.behind = (one) => {
    for (let at = one; at; at = at.parentElement) if (isSolid(getComputedStyle(at).backgroundColor)) return getComputedStyle(at).backgroundColor;
    return getComputedStyle(document.documentElement).backgroundColor;
  };
  window.contrast = (one, other) => Math.max(light(one) / light(other), light(other) / light(one));
})()"""
FAINT_LINES = """(() => {
  const faint = [];
  const note = (one, what, color) => {
    const ratio = contrast(color, behind(one.parentElement));
    if (ratio < 3) faint.push(`${what} ${ratio.toFixed(2)} ${one.outerHTML.slice(0, 90)}`);
  };
  for (const one of document.querySelectorAll("input, select, textarea, button:enabled, .button")) {
    const { borderTopColor, borderTopStyle, backgroundColor } = getComputedStyle(one);
    if (one.closest(".hidden") || one.matches(".hidden, .quiet, [type=checkbox]")) continue; // quiet ones are text, checkboxes the browser's own
    if (borderTopStyle === "none" || contrast(borderTopColor, behind(one.parentElement)) < 3) note(one, "control", backgroundColor);
  }
  for (const one of document.querySelectorAll("svg :is(.survival, .mark, .tick)")) note(one, "line", getComputedStyle(one).stroke);
  for (const one of document.querySelectorAll("svg [class*=tone-]")) note(one, "mark", getComputedStyle(one).fill);
  return faint;
})()"""
FOCUSED = """(() => {
  const one = document.activeElement;
  if (!one || one === document.body) return null;
  const { outlineStyle, outlineWidth, outlineColor } = getComputedStyle(one);
  one.dataset.reached = "";
  const isSeen = outlineStyle === "solid" && parseFloat(outlineWidth) >= 2 && contrast(outlineColor, behind(one.parentElement)) >= 3;
  return [isSeen, one.outerHTML.slice(0, 90)];
})()"""
MISSED = """[...document.querySelectorAll("a[href], button:enabled, input:enabled, select, summary, [tabindex='0']")]
  .filter((one) => one.checkVisibility() && !one.matches("[tabindex='-1'], [data-reached]")).map((one) => one.outerHTML.slice(0, 90))"""
ANNOUNCED = """(() => {
  window.announced = [];
  new MutationObserver(() => announced.push(performance.now())).observe(document.getElementById("announcer"), { childList: true, characterData: true, subtree: true });
})()"""


async def screens(full: DaemonSetup) -> list[Shown]:
    """Every screen; the lists short, with a filter that turns their bulk operations on."""
    short = {
        "runs": "runs?limit=3&state=open",
        "deliveries": "deliveries?limit=3&endpoint=billing",
        "events": "events?limit=3",
    }
    return [
        *(one._replace(address=short.get(one.name, one.address)) for one in lists()),
        *await single_things(full),
    ]


async def test_tab_reaches_every_control_and_each_shows_that_it_has_the_focus(
    own_page: Page, full: DaemonSetup
) -> None:
    found = []
    for screen in await screens(full):
        await show(own_page, full.daemon.url, Shown("nothing", "runs?tag=none", "Runs"))
        await show(own_page, full.daemon.url, screen)
        await own_page.get_by_role("button", name="Pause").click()  # nothing is drawn again
        await own_page.evaluate(RATIO)
        ends = 0
        while ends < 2:  # it begins at the heading, and behind the end comes the beginning
            await own_page.keyboard.press("Tab")
            focused = await own_page.evaluate(FOCUSED)
            if focused is None:
                ends += 1
                continue
            found += [] if focused[0] else [f"{screen.name}, not seen: {focused[1]}"]
        found += [f"{screen.name}, not reached: {one}" for one in await own_page.evaluate(MISSED)]
        await own_page.get_by_role("button", name="Go on").click()
    assert found == []


async def test_controls_and_the_lines_of_charts_stand_out_in_both_themes(own_page: Page, full: DaemonSetup) -> None:
    """Three to one against what is behind them, as WCAG 1.4.11 asks; axe-core measures only text."""
    await own_page.evaluate(RATIO)
    found = []
    for screen in await screens(full):
        await show(own_page, full.daemon.url, screen)
        for scheme in ("light", "dark"):
            await own_page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            found += [f"{screen.name} {scheme}: {one}" for one in await own_page.evaluate(FAINT_LINES)]
    assert found == []


async def test_announcements_come_at_most_once_in_five_seconds(own_page: Page, full: DaemonSetup) -> None:
    """The newest sentence counts; what came before it is not told late."""
    await show(own_page, full.daemon.url, Shown("endpoints", "endpoints", "Endpoints"))
    await own_page.evaluate(ANNOUNCED)
    announcer = own_page.locator("#announcer")
    ping = own_page.get_by_role("row").filter(has_text="orders").get_by_role("button", name="Ping", exact=True)
    for _ in range(3):
        async with own_page.expect_response(lambda answer: answer.url.endswith("/ping")):
            await ping.click()
        await expect(ping).not_to_have_attribute("aria-busy", "true")
    await expect(announcer).not_to_be_empty()
    await own_page.get_by_role("button", name="Pause").click()
    await expect(announcer).to_have_text("Paused")
    await own_page.get_by_role("button", name="Go on").click()
    await expect(announcer).to_have_text("Live again")
    times = await own_page.evaluate("announced")
    assert len(times) >= 3
    assert all(later - earlier > 4900 for earlier, later in pairwise(times)), times


async def test_the_order_of_a_list_is_said(own_page: Page, full: DaemonSetup) -> None:
    for name in ("runs", "deliveries", "events"):
        await show(own_page, full.daemon.url, Shown(name, name, name.capitalize()))
        await expect(own_page.locator("thead th[aria-sort=descending]")).to_have_count(1)
