"""Where the focus goes when what had it is gone, and what a dialog leaves behind."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Route, expect

from tests.support.daemon_process import TOKEN
from tests.support.daemon_setup import DaemonSetup
from tests.support.dashboard import Shown, arrive, lists, show, sign_in

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser, full: DaemonSetup) -> AsyncIterator[Page]:
    """A page with a session of its own: other tests end every session that is open."""
    opened = await browser.new_page()
    await sign_in(opened, full.daemon.url)
    yield opened
    await opened.close()


async def end_sessions(setup: DaemonSetup) -> None:
    """Sign out every browser."""
    for session in (await setup.daemon.ask("GET", "/v1/sessions"))["data"]:
        await setup.daemon.ask("DELETE", f"/v1/sessions/{session['id']}", status=204)


async def test_signing_in_again_is_possible_over_a_dialog_whose_input_stays(page: Page, full: DaemonSetup) -> None:
    """A modal dialog makes everything else inert, so the form has to be one too."""
    await show(page, full.daemon.url, Shown("runs", "runs", "Runs"))
    await page.get_by_role("button", name="Register", exact=True).click()
    form = page.get_by_role("dialog")
    await form.get_by_label("Provider's run id").fill("half typed")
    await end_sessions(full)
    again = page.get_by_role("dialog", name="Sign in again")
    await expect(again).to_be_visible()  # the stream ends with its session
    await expect(page.get_by_role("heading", level=1)).to_have_text("Runs")
    await page.keyboard.press("Escape")
    await expect(again).to_be_visible()
    await again.get_by_label("API token").fill(TOKEN)
    await page.keyboard.press("Enter")
    await expect(again).to_have_count(0)
    await expect(form.get_by_label("Provider's run id")).to_have_value("half typed")
    await expect(page).to_have_title("Runs · runbridge")


async def test_a_dialog_that_a_key_closed_can_be_opened_at_once(page: Page, full: DaemonSetup) -> None:
    await show(page, full.daemon.url, Shown("endpoint", "endpoints/billing", "billing"))
    await page.get_by_role("button", name="Replay", exact=True).focus()
    for _ in range(10):
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("dialog")).to_be_visible()
        await page.keyboard.press("Escape")
    await expect(page.get_by_role("button", name="Replay", exact=True)).to_be_focused()


async def test_a_filter_keeps_the_focus_and_clearing_them_moves_it_to_the_heading(
    page: Page, full: DaemonSetup
) -> None:
    await show(page, full.daemon.url, Shown("runs", "runs?tag=no-such-tag", "Runs"))
    status = page.get_by_label("Status", exact=True)
    await status.focus()
    await page.keyboard.press("ArrowDown")
    await page.wait_for_function("location.hash.includes('status=queued')")
    await arrive(page, "Runs")
    await expect(status).to_be_focused()
    await page.go_back()
    await expect(status).to_have_value("")
    await arrive(page, "Runs")
    await page.get_by_role("link", name="Clear filters").press("Enter")
    await arrive(page, "Runs")
    await expect(page.get_by_role("heading", level=1)).to_be_focused()


async def test_the_button_that_takes_the_place_of_another_has_its_focus(page: Page, full: DaemonSetup) -> None:
    made = await full.add_endpoint("/focus")
    await show(page, full.daemon.url, Shown("endpoints", "endpoints", "Endpoints"))
    row = page.get_by_role("row").filter(has_text=made["id"])
    enable, disable = (row.get_by_role("button", name=name, exact=True) for name in ("Enable", "Disable"))
    await disable.press("Enter")
    await expect(enable).to_be_focused()
    await enable.press("Enter")
    await expect(disable).to_be_focused()
    await show(page, full.daemon.url, Shown("endpoint", f"endpoints/{made['id']}", made["id"]))
    main = page.get_by_role("main")
    await main.get_by_role("button", name="Disable", exact=True).press("Enter")
    await main.get_by_role("button", name="Enable", exact=True).press("Enter")
    await expect(page.get_by_role("dialog")).to_contain_text("Count first")
    await page.keyboard.press("Escape")
    await expect(main.get_by_role("button", name="Disable", exact=True)).to_be_focused()


async def test_the_focus_returns_from_a_dialog_that_another_one_opened(page: Page, full: DaemonSetup) -> None:
    made = await full.add_endpoint("/rotated")
    await show(page, full.daemon.url, Shown("endpoint", f"endpoints/{made['id']}", made["id"]))
    rotate = page.get_by_role("main").get_by_role("button", name="Rotate secret").first
    await rotate.click()
    await page.get_by_role("dialog").get_by_role("button", name="Rotate secret").click()
    secret = page.get_by_role("dialog", name="Signing secret")
    await expect(secret).to_contain_text("whsec_")
    await secret.get_by_role("button", name="I have it").click()
    await expect(rotate).to_be_focused()
    await expect(page.get_by_text("whsec_")).to_have_count(0)


async def test_any_id_or_name_leads_to_what_has_it(page: Page, full: DaemonSetup) -> None:
    run = (await full.daemon.ask("GET", "/v1/runs?limit=1"))["data"][0]
    await show(page, full.daemon.url, next(lists()))
    field = page.get_by_label("Find by any id")
    for given, heading in ((run["id"].upper(), run["id"]), ("billing", "billing"), ("dify", "dify")):
        await field.fill(given)
        await field.press("Enter")
        await arrive(page, heading)
    for given, found in ((run["provider_run_id"], run["id"]), ("customer=4711", "run_")):
        await field.fill(given)
        await field.press("Enter")
        await arrive(page, "Runs")
        await expect(page.locator("tbody tr").first).to_contain_text(found)


async def test_a_version_that_came_while_the_tab_was_hidden_is_said(page: Page) -> None:
    async def change(route: Route) -> None:
        answer = await route.fetch()
        await route.fulfill(response=answer, body=json.dumps({**json.loads(await answer.text()), "version": "99.0"}))

    await page.route("**/v1/session", change)
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await expect(page.get_by_role("button", name="Reload for 99.0")).to_be_visible()
