"""The states of a screen: stale, paused, signed out, filtered empty, new rows, huge fields, other clocks and versions."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from playwright.async_api import Browser, BrowserContext, Page, Route, expect

from bridge.sandbox import Scenario
from tests.support.daemon_setup import DaemonSetup
from tests.support.dashboard import PATIENCE_MS, Shown, follow, show, sign_in

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


async def signed_in(browser: Browser, setup: DaemonSetup, address: str = "overview", heading: str = "") -> Page:
    """A page of its own at this address, with everything on it; its heading is its name unless given."""
    page = await browser.new_page()
    await sign_in(page, setup.daemon.url)
    await show(page, setup.daemon.url, Shown("", address, heading or address.split("?", maxsplit=1)[0].capitalize()))
    return page


async def test_a_pause_holds_and_counts_what_waits_until_it_ends(browser: Browser, full: DaemonSetup) -> None:
    page = await signed_in(browser, full, "events")
    newest = await page.locator("tbody tr a").first.inner_text()
    await page.get_by_role("button", name="Pause").click()
    await expect(page.get_by_role("status")).to_have_text("Paused")
    run = await full.register(Scenario(duration_s=0))
    await full.daemon.finish_of(run["id"])
    await expect(page.locator(".live small")).not_to_have_text("0 changes wait", timeout=PATIENCE_MS)
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await expect(page.locator("tbody tr a").first).to_have_text(newest)
    await expect(page.locator(".fresh button")).to_have_count(0)
    await page.get_by_role("button", name="Go on").click()
    await expect(page.locator(".fresh button")).to_contain_text("new", timeout=PATIENCE_MS)
    await expect(page.locator("tbody tr a").first).to_have_text(newest)
    await page.locator(".fresh button").click()
    await expect(page.locator("tbody tr a").first).not_to_have_text(newest)
    await page.close()


async def test_signing_in_again_happens_over_the_page_whose_address_stays(browser: Browser, full: DaemonSetup) -> None:
    page = await signed_in(browser, full, "runs?status=failed")
    for session in (await full.daemon.ask("GET", "/v1/sessions"))["data"]:
        await full.daemon.ask("DELETE", f"/v1/sessions/{session['id']}", status=204)
    await page.get_by_label("API token").fill("wrong", timeout=PATIENCE_MS)  # the stream ends with its session
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("alert")).to_contain_text("token is wrong")
    await page.get_by_label("API token").fill("token-that-must-not-be-seen")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_label("API token")).to_have_count(0, timeout=PATIENCE_MS)
    assert page.url.endswith("#/runs?status=failed")
    await expect(page.locator("tbody tr").first).to_be_visible()
    await page.close()


async def test_a_filter_without_matches_is_named_and_cleared(browser: Browser, full: DaemonSetup) -> None:
    page = await signed_in(browser, full, "runs?tag=no-such-tag")
    await expect(page.locator(".empty")).to_contain_text("tag no-such-tag")
    await follow(page, page.get_by_role("link", name="Clear filters"), "Runs")
    await expect(page.locator("tbody tr").first).to_be_visible()
    await page.close()


async def test_a_huge_foreign_field_is_cut_and_can_be_had_whole(browser: Browser, full: DaemonSetup) -> None:
    """A line of 300 kB with markup, a bell and a right-to-left override, in an output; a number beyond 2^53 in it."""
    text = "<img src=x onerror=alert(1)>\u202e\u0007" + "x" * 300_000
    run = await full.register(Scenario(duration_s=0, output={"text": text}), metadata={"exact": 12345678901234567890})
    await full.daemon.finish_of(run["id"])
    page = await signed_in(browser, full, f"runs/{run['id']}", run["id"])
    output = page.get_by_role("group", name="output")
    await expect(output).to_contain_text("<img src=x onerror=alert(1)>")
    assert len(await output.inner_text()) < 10_000
    await expect(page.get_by_role("button", name="Download all")).to_be_visible()
    await expect(page.get_by_role("group", name="metadata")).to_contain_text("12345678901234567890")
    await expect(page.locator("main img")).to_have_count(0)
    await page.close()


async def test_another_clock_and_another_version_are_said(browser: Browser, full: DaemonSetup) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True)

    async def change(route: Route) -> None:
        answer = await route.fetch()
        body = await answer.text()
        if route.request.url.endswith("/v1/session"):
            body = json.dumps({**json.loads(body), "version": "99.0"})
        await route.fulfill(response=answer, body=body, headers={**answer.headers, "date": later})

    page = await signed_in(browser, full)
    await page.route("**/v1/session", change)
    await page.route("**/v1/summary", change)
    await page.get_by_role("button", name="Refresh").click()
    await expect(page.locator("header .warn")).to_contain_text("behind", timeout=PATIENCE_MS)
    await page.route(
        "**/v1/**", lambda route: route.abort() if "session" not in route.request.url else route.fallback()
    )
    await page.get_by_role("button", name="Refresh").click()
    await expect(page.get_by_role("button", name="Reload for 99.0")).to_be_visible(timeout=PATIENCE_MS)
    await page.close()


async def test_many_tabs_share_one_stream(browser: Browser, full: DaemonSetup) -> None:
    context: BrowserContext = await browser.new_context()
    streams: list[str] = []
    context.on("request", lambda sent: streams.append(sent.url) if "/v1/events/stream" in sent.url else None)
    first = await context.new_page()
    await sign_in(first, full.daemon.url)
    for _ in range(3):
        tab = await context.new_page()
        await show(tab, full.daemon.url, Shown("runs", "runs", "Runs"))
        await expect(tab.get_by_role("status")).to_have_text("Live")
    assert len(streams) == 1
    await context.close()


async def test_a_long_list_is_whole_and_a_body_is_shown_beside_the_feed(browser: Browser, full: DaemonSetup) -> None:
    """Rows out of view are laid out a moment later."""
    page = await signed_in(browser, full, "events?limit=200")
    assert await page.locator("tbody tr").count() > 50
    event = await page.locator("tbody tr a").first.inner_text()
    await follow(page, page.get_by_role("link", name=f"Show the body of {event}"), "Events")
    body = page.get_by_role("region", name="Body of the event")
    await expect(body.get_by_role("group", name="body")).to_contain_text(f'"id": "{event}"')
    await follow(page, body.get_by_role("link", name="Close"), "Events")
    await expect(body).to_have_count(0)
    assert page.url.endswith("#/events?limit=200")
    await page.close()


async def test_rows_show_the_worst_of_their_deliveries_and_poll_an_open_run(
    browser: Browser, full: DaemonSetup
) -> None:
    page = await signed_in(browser, full, "runs?status=failed")
    worst = page.locator("tbody tr").first.get_by_role("link", name=re.compile("^(pending|exhausted)$"))
    await expect(worst).to_be_visible(timeout=PATIENCE_MS)  # one receiver refuses everything, the others took it
    await follow(page, worst, "Deliveries")
    await expect(page.get_by_label("Run id")).to_have_value(re.compile("run_"))
    await show(page, full.daemon.url, Shown("open runs", "runs?state=open", "Runs"))
    await page.get_by_role("button", name="Poll now").first.click()
    await expect(page.locator("#announcer")).to_contain_text("polled now", timeout=PATIENCE_MS)
    await show(page, full.daemon.url, Shown("events", "events", "Events"))
    await expect(page.get_by_role("columnheader", name="Deliveries")).to_be_visible()
    await page.close()


async def test_a_run_is_opened_at_its_provider_but_no_script_is(browser: Browser, full: DaemonSetup) -> None:
    run = (await full.daemon.ask("GET", "/v1/runs?status=failed&limit=1"))["data"][0]["id"]
    page = await browser.new_page()
    await sign_in(page, full.daemon.url)
    told = {"link": ""}

    async def change(route: Route) -> None:
        answer = await route.fetch()
        await route.fulfill(response=answer, body=json.dumps({**json.loads(await answer.text()), **told}))

    await page.route(f"**/v1/runs/{run}", change)
    for link, count in (("https://jobs.example/7", 1), ("javascript:alert(1)", 0)):
        told["link"] = link
        await show(page, full.daemon.url, Shown("overview", "overview", "Overview"))
        await show(page, full.daemon.url, Shown("run", f"runs/{run}", run))
        await expect(page.get_by_role("link", name="open", exact=True)).to_have_count(count)
        await expect(page.locator(f'main a[href="{link}"][rel="noopener noreferrer"]')).to_have_count(count)
    await page.close()


async def test_what_is_wrong_with_a_run_is_not_cut_off_in_the_list(browser: Browser, full: DaemonSetup) -> None:
    page = await browser.new_page()
    await sign_in(page, full.daemon.url)
    error = {"at": "2026-01-15T10:30:00.000Z", "kind": "transport", "message": "no answer", "count": 3}

    async def change(route: Route) -> None:
        answer = await route.fetch()
        runs = json.loads(await answer.text())
        runs["data"] = [{**run, "overdue": True, "last_error": error} for run in runs["data"]]
        await route.fulfill(response=answer, body=json.dumps(runs))

    await page.route(re.compile(r"/v1/runs\?"), change)
    await show(page, full.daemon.url, Shown("runs", "runs", "Runs"))
    cell = page.locator("td", has_text="not readable").first
    await expect(cell).to_contain_text("overdue", timeout=PATIENCE_MS)
    assert await cell.evaluate("cell => cell.scrollWidth <= cell.clientWidth")
    await page.close()
