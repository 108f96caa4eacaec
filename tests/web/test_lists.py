"""Lists: filters in the address, what acts on all that match, and keys that act on the row with the focus."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

from tests.support.daemon_setup import DaemonSetup
from tests.support.dashboard import Shown, arrive, show

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


async def runs_at(own_page: Page, setup: DaemonSetup, query: str) -> None:
    """Show the list of runs with this query."""
    await show(own_page, setup.daemon.url, Shown("runs", f"runs?{query}", "Runs"))


async def test_a_filter_that_the_form_does_not_offer_is_shown_or_kept(own_page: Page, full: DaemonSetup) -> None:
    """An address may hold several statuses, or a key of the metadata: another filter beside them keeps them."""
    await runs_at(own_page, full, "status=queued,running,waiting&metadata.customer=4711")
    await expect(own_page.get_by_label("Status", exact=True)).to_have_value("queued,running,waiting")
    await own_page.get_by_label("Tag", exact=True).fill("nightly")
    await own_page.keyboard.press("Enter")
    await own_page.wait_for_function("location.hash.includes('nightly')")
    assert "metadata.customer=4711" in own_page.url
    assert "status=queued%2Crunning%2Cwaiting" in own_page.url
    await arrive(own_page, "Runs")
    await expect(own_page.locator(".empty")).to_contain_text("metadata.customer 4711")


async def test_what_is_half_typed_stays_while_the_list_is_fetched_again(own_page: Page, full: DaemonSetup) -> None:
    await runs_at(own_page, full, "status=failed")
    await own_page.get_by_label("Tag", exact=True).fill("half ty")
    async with own_page.expect_response(lambda answer: "/v1/runs?" in answer.url):
        await own_page.get_by_role("button", name="Refresh").click()
    await own_page.get_by_role("button", name="Pause").click()  # draws everything again
    await expect(own_page.get_by_role("status")).to_have_text("Paused")
    await expect(own_page.get_by_label("Tag", exact=True)).to_have_value("half ty")


async def test_all_that_match_is_no_more_than_the_list_shows(own_page: Page, full: DaemonSetup) -> None:
    """The selection has every filter of the address; the button of the dialog has the name of its opener."""
    asked: list[dict[str, Any]] = []

    async def note(route: Route) -> None:
        asked.append(json.loads(route.request.post_data or "{}"))
        await route.fallback()

    await own_page.route("**/v1/runs/stop", note)
    await runs_at(own_page, full, "state=open&status=running,waiting&metadata.customer=none")
    name = "Stop watching all that match"
    await own_page.get_by_role("button", name=name).click()
    dialog = own_page.get_by_role("dialog")
    await dialog.get_by_role("button", name="Count").click()
    await expect(dialog).to_contain_text("0 open runs are selected")
    await expect(dialog.get_by_role("button", name=name, exact=True)).to_be_disabled()
    selected = {"state": "open", "status": ["running", "waiting"], "metadata": {"customer": "none"}}
    assert asked == [{**selected, "dry_run": True}]


async def test_keys_act_on_the_row_with_the_focus(own_page: Page, full: DaemonSetup) -> None:
    await show(own_page, full.daemon.url, Shown("deliveries", "deliveries?endpoint=billing", "Deliveries"))
    rows = own_page.locator("tbody tr td:first-child a")
    second = await rows.nth(1).inner_text()
    await expect(own_page.get_by_role("heading", level=1)).to_be_focused()
    await own_page.keyboard.press("ArrowDown")
    await expect(rows.first).to_be_focused()
    await own_page.keyboard.press("ArrowDown")
    await own_page.keyboard.press("Shift+R")
    await expect(own_page.get_by_role("dialog")).to_contain_text(second)
    await own_page.keyboard.press("Escape")
    await expect(own_page.locator("tbody tr").nth(1).get_by_role("button", name="Retry")).to_be_focused()


async def test_a_row_that_changes_keeps_the_focus(own_page: Page, full: DaemonSetup) -> None:
    workflows = ["before"]

    async def change(route: Route) -> None:
        answer = await route.fetch()
        runs = json.loads(await answer.text())
        runs["data"] = [{**run, "workflow_id": workflows[-1]} for run in runs["data"]]
        await route.fulfill(response=answer, body=json.dumps(runs))

    await own_page.route("**/v1/runs?*", change)
    await runs_at(own_page, full, "status=failed")
    link = own_page.locator("tbody tr").nth(2).get_by_role("link").first
    await link.focus()
    workflows.append("after")
    await own_page.get_by_role("button", name="Refresh").dispatch_event("click")
    await expect(own_page.locator("tbody tr").nth(2)).to_contain_text("after")
    await expect(link).to_be_focused()
