"""One day at the dashboard, end to end: register, watch, a broken receiver, retry, replay, a restart, sign out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from bridge.sandbox import Reply, Scenario
from tests.support.daemon_setup import daemon_setup
from tests.support.dashboard import PATIENCE_MS, TABLES, Shown, follow, show, sign_in


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="session")
async def test_a_day_at_the_dashboard(browser: Browser, tmp_path: Path) -> None:
    async with daemon_setup(tmp_path, "dify", endpoints=("app",), **TABLES) as setup, setup.daemon as daemon:
        page = await browser.new_page()
        await sign_in(page, daemon.url)

        theirs = setup.sandbox.add_run("dify", scenario=Scenario(duration_s=None))
        await follow(page, page.get_by_role("link", name="Runs", exact=True), "Runs")
        await page.get_by_role("button", name="Register", exact=True).click()
        form = page.get_by_role("dialog")
        await form.get_by_label("Provider's run id").fill(theirs)
        await follow(page, form.get_by_role("button", name="Register"), re.compile("run_"))
        heading = page.get_by_role("heading", level=1)
        run = await heading.inner_text()
        await expect(page.locator(".facts").first).to_contain_text("running", timeout=PATIENCE_MS)
        setup.sandbox.add_run("dify", run_id=theirs, scenario=Scenario(duration_s=0))
        await expect(page.locator(".facts").first).to_contain_text("succeeded", timeout=PATIENCE_MS)
        await expect(page.get_by_role("link", name="run.finished").first).to_be_visible(timeout=PATIENCE_MS)
        await setup.wait_for_posts(2, "/app")

        setup.receiver.always(Reply(500, body="broken"), path="/app")
        failing = await setup.register(Scenario(duration_s=0))
        await daemon.finish_of(failing["id"])
        await follow(page, page.get_by_role("link", name="Deliveries", exact=True), "Deliveries")
        await show(page, daemon.url, Shown("its deliveries", f"deliveries?run={failing['id']}", "Deliveries"))
        await follow(page, page.locator("tbody tr td a").first, re.compile("dlv_"))
        await expect(page.get_by_text("500 server_error").first).to_be_visible(timeout=PATIENCE_MS)
        setup.receiver.always(None, path="/app")
        await page.get_by_role("button", name="Retry", exact=True).click()
        await expect(page.locator(".facts").first).to_contain_text("delivered", timeout=PATIENCE_MS)

        before = len(setup.posts("/app"))
        await show(page, daemon.url, Shown("run", f"runs/{run}", run))
        await page.get_by_role("button", name="Replay").last.click()
        await page.get_by_role("dialog").get_by_role("button", name="Replay").click()
        await expect(page.locator("#announcer")).to_contain_text("Sent again to 1 endpoint", timeout=PATIENCE_MS)
        await setup.wait_for_posts(before + 1, "/app")

        open_run = await setup.register(Scenario(duration_s=None))
        await show(page, daemon.url, Shown("open run", f"runs/{open_run['id']}", open_run["id"]))
        poll = page.get_by_role("button", name="Poll now")
        await expect(poll).to_be_enabled()
        daemon.config["server"]["listen"] = daemon.url.removeprefix("http://")
        await daemon.kill()
        await expect(page.get_by_role("status")).to_have_text("Disconnected", timeout=PATIENCE_MS)
        await expect(page.locator(".live")).to_contain_text("as of")
        await expect(poll).to_be_disabled()
        await expect(page.locator(".why")).to_contain_text("The daemon does not answer")
        await daemon.restart()
        await expect(page.get_by_role("status")).to_have_text("Live", timeout=PATIENCE_MS)
        await expect(heading).to_have_text(open_run["id"])
        await expect(poll).to_be_enabled()
        await poll.click()
        await expect(page.locator("#announcer")).to_contain_text("polled now", timeout=PATIENCE_MS)

        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_label("API token")).to_be_visible()
        await page.reload()
        await expect(page.get_by_label("API token")).to_be_visible()
        await page.close()
