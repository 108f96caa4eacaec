"""Where the focus goes when what had it is gone, and what a dialog leaves behind."""

from __future__ import annotations

import json

import pytest
from playwright.async_api import Page, Route, expect

from tests.support.daemon_process import TOKEN
from tests.support.daemon_setup import DaemonSetup
from tests.support.dashboard import Shown, arrive, lists, show

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


async def end_sessions(setup: DaemonSetup) -> None:
    """Sign out every browser."""
    for session in (await setup.daemon.ask("GET", "/v1/sessions"))["data"]:
        await setup.daemon.ask("DELETE", f"/v1/sessions/{session['id']}", status=204)


async def test_signing_in_again_is_possible_over_a_dialog_whose_input_stays(own_page: Page, full: DaemonSetup) -> None:
    """A modal dialog makes everything else inert, so the form has to be one too."""
    await show(own_page, full.daemon.url, Shown("runs", "runs", "Runs"))
    await own_page.get_by_role("button", name="Register", exact=True).click()
    form = own_page.get_by_role("dialog")
    await form.get_by_label("Provider's run id").fill("half typed")
    await end_sessions(full)
    again = own_page.get_by_role("dialog", name="Sign in again")
    await expect(again).to_be_visible()  # the stream ends with its session
    await expect(own_page.get_by_role("heading", level=1)).to_have_text("Runs")
    await own_page.keyboard.press("Escape")
    await expect(again).to_be_visible()
    await again.get_by_label("API token").fill(TOKEN)
    await own_page.keyboard.press("Enter")
    await expect(again).to_have_count(0)
    await expect(form.get_by_label("Provider's run id")).to_have_value("half typed")
    await expect(own_page).to_have_title("Runs · runbridge")


async def test_a_dialog_that_a_key_closed_can_be_opened_at_once(own_page: Page, full: DaemonSetup) -> None:
    await show(own_page, full.daemon.url, Shown("endpoint", "endpoints/billing", "billing"))
    await own_page.get_by_role("button", name="Replay", exact=True).focus()
    for _ in range(10):
        await own_page.keyboard.press("Enter")
        await expect(own_page.get_by_role("dialog")).to_be_visible()
        await own_page.keyboard.press("Escape")
    await expect(own_page.get_by_role("button", name="Replay", exact=True)).to_be_focused()


async def test_a_filter_keeps_the_focus_and_clearing_them_moves_it_to_the_heading(
    own_page: Page, full: DaemonSetup
) -> None:
    await show(own_page, full.daemon.url, Shown("runs", "runs?tag=no-such-tag", "Runs"))
    status = own_page.get_by_label("Status", exact=True)
    await status.focus()
    await own_page.keyboard.press("ArrowDown")
    await own_page.wait_for_function("location.hash.includes('status=queued')")
    await arrive(own_page, "Runs")
    await expect(status).to_be_focused()
    await own_page.go_back()
    await expect(status).to_have_value("")
    await arrive(own_page, "Runs")
    await own_page.get_by_role("link", name="Clear filters").press("Enter")
    await arrive(own_page, "Runs")
    await expect(own_page.get_by_role("heading", level=1)).to_be_focused()


async def test_the_button_that_takes_the_place_of_another_has_its_focus(own_page: Page, full: DaemonSetup) -> None:
    made = await full.add_endpoint("/focus")
    await show(own_page, full.daemon.url, Shown("endpoints", "endpoints", "Endpoints"))
    row = own_page.get_by_role("row").filter(has_text=made["id"])
    enable, disable = (row.get_by_role("button", name=name, exact=True) for name in ("Enable", "Disable"))
    await disable.press("Enter")
    await expect(enable).to_be_focused()
    await enable.press("Enter")
    await expect(disable).to_be_focused()
    await show(own_page, full.daemon.url, Shown("endpoint", f"endpoints/{made['id']}", made["id"]))
    main = own_page.get_by_role("main")
    await main.get_by_role("button", name="Disable", exact=True).press("Enter")
    await main.get_by_role("button", name="Enable", exact=True).press("Enter")
    await expect(own_page.get_by_role("dialog")).to_contain_text("Count first")
    await own_page.keyboard.press("Escape")
    await expect(main.get_by_role("button", name="Disable", exact=True)).to_be_focused()


async def test_the_focus_returns_from_a_dialog_that_another_one_opened(own_page: Page, full: DaemonSetup) -> None:
    made = await full.add_endpoint("/rotated")
    await show(own_page, full.daemon.url, Shown("endpoint", f"endpoints/{made['id']}", made["id"]))
    rotate = own_page.get_by_role("main").get_by_role("button", name="Rotate secret").first
    await rotate.click()
    await own_page.get_by_role("dialog").get_by_role("button", name="Rotate secret").click()
    secret = own_page.get_by_role("dialog", name="Signing secret")
    await expect(secret).to_contain_text("whsec_")
    await secret.get_by_role("button", name="I have it").click()
    await expect(rotate).to_be_focused()
    await expect(own_page.get_by_text("whsec_")).to_have_count(0)


async def test_any_id_or_name_leads_to_what_has_it(own_page: Page, full: DaemonSetup) -> None:
    run = (await full.daemon.ask("GET", "/v1/runs?limit=1"))["data"][0]
    await show(own_page, full.daemon.url, next(lists()))
    field = own_page.get_by_label("Find by any id")
    for given, heading in ((run["id"].upper(), run["id"]), ("billing", "billing"), ("dify", "dify")):
        await field.fill(given)
        await field.press("Enter")
        await arrive(own_page, heading)
    for given, found in ((run["provider_run_id"], run["id"]), ("customer=4711", "run_")):
        await field.fill(given)
        await field.press("Enter")
        await arrive(own_page, "Runs")
        await expect(own_page.locator("tbody tr").first).to_contain_text(found)


async def test_a_version_that_came_while_the_tab_was_hidden_is_said(own_page: Page) -> None:
    async def change(route: Route) -> None:
        answer = await route.fetch()
        await route.fulfill(response=answer, body=json.dumps({**json.loads(await answer.text()), "version": "99.0"}))

    await own_page.route("**/v1/session", change)
    await own_page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await expect(own_page.get_by_role("button", name="Reload for 99.0")).to_be_visible()
