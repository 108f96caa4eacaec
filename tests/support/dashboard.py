"""The dashboard in Debian's Chromium, over a daemon with something to show on every screen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from playwright.async_api import Browser, Locator, Page, Playwright, expect

from bridge.domain.run import RunError
from bridge.sandbox import Reply, Scenario, Step
from tests.support.daemon_process import TOKEN
from tests.support.daemon_setup import DaemonSetup

PAGES = ("Overview", "Runs", "Deliveries", "Endpoints", "Connections", "Events", "Replays", "Nodes")
ENDPOINTS = ("orders", "billing")
TABLES = {"delivery": {"retry_schedule": ["1s", "2s"], "allow": ["127.0.0.0/8"]}}
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
WORKFLOWS = {"invoices": 0.6, "contracts": 1.5, "receipts": 0.3}
PATIENCE_MS = 60_000
expect.set_options(timeout=PATIENCE_MS)  # by default 5 s, which a busy machine takes
HAS_ARRIVED = """() => {
  const main = document.querySelector("main[data-address]");
  return main !== null && main.dataset.address === location.hash && !main.querySelector(".loading, [aria-busy=true]")
    && [...main.querySelectorAll("table, .empty, .facts")].some((one) => one.checkVisibility());
}"""


class Shown(NamedTuple):
    """One screen: its name, its address behind `#/`, and its heading."""

    name: str
    address: str
    heading: str


async def launch(playwright: Playwright) -> Browser:
    """Chromium without a window."""
    return await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS.split())


async def sign_in(page: Page, url: str, token: str = TOKEN) -> None:
    """Open the dashboard and sign in."""
    await page.goto(url)
    await page.get_by_label("API token").fill(token)
    await page.get_by_role("button", name="Sign in").click()
    await arrive(page, "Overview")


async def fill(setup: DaemonSetup) -> None:
    """Runs of several workflows and outcomes, an endpoint that refuses everything, one that is off, and a replay."""
    daemon = setup.daemon
    setup.receiver.always(Reply(503, body="the database is down for maintenance"), path="/billing")
    archive = await setup.add_endpoint("/archive-api", description="Everything, for the archive", ordered=True)
    for number in range(16):
        for workflow, duration_s in WORKFLOWS.items():
            outcome = "failed" if number % 8 == 3 else "partial" if number % 16 == 9 else "succeeded"
            error = RunError("The model refused page 3: the scan is too dark.", "E_SCAN", "extract")
            scenario = Scenario(duration_s=duration_s * (0.7 + number / 20), outcome=outcome, error=error)
            await setup.register(
                scenario, workflow_id=workflow, tags=["nightly"], metadata={"customer": 4711 + number, "pages": 12}
            )
    waiting = Scenario(duration_s=None, steps=(Step(0, "running"), Step(0.5, "waiting")))
    await setup.register(Scenario(duration_s=None), workflow_id="contracts", tags=["urgent"])
    paused = await setup.register(waiting, workflow_id="contracts")
    await daemon.eventually(f"/v1/runs/{paused['id']}", lambda run: run["status"] == "waiting")
    await daemon.eventually("/v1/runs?state=open", lambda runs: len(runs["data"]) == 2)
    body = {"since": "2020-01-01T00:00:00Z", "status": "delivered", "types": ["run.started"]}
    await daemon.ask("POST", f"/v1/endpoints/{archive['id']}/replay", body, status=202)
    await daemon.ask("POST", f"/v1/endpoints/{archive['id']}/disable", {})


async def single_things(setup: DaemonSetup) -> list[Shown]:
    """The screen of one thing of each kind that `fill` made."""
    ask = setup.daemon.ask
    run = (await ask("GET", "/v1/runs?status=failed&limit=1"))["data"][0]["id"]
    refused = (await ask("GET", "/v1/deliveries?endpoint=billing&limit=200"))["data"]
    delivery = max(refused, key=lambda one: one["attempt_count"])["id"]
    event = (await ask("GET", f"/v1/events?run_id={run}&order=newest&limit=1"))["data"][0]["id"]
    replay = (await ask("GET", "/v1/replays?limit=1"))["data"][0]["id"]
    node = (await ask("GET", "/v1/nodes"))["data"][0]["id"]
    return [
        Shown("run", f"runs/{run}", run),
        Shown("delivery", f"deliveries/{delivery}", delivery),
        Shown("endpoint", "endpoints/billing", "billing"),
        Shown("connection", "connections/dify?workflow=contracts", "dify"),
        Shown("event", f"events/{event}", event),
        Shown("replay", f"replays/{replay}", replay),
        Shown("node", f"nodes/{node}", node),
    ]


def lists() -> Iterator[Shown]:
    """The screens of the navigation."""
    for name in PAGES:
        yield Shown(name.lower(), name.lower(), name)


async def show(page: Page, url: str, screen: Shown) -> None:
    """Open a screen and wait until everything on it has arrived."""
    await page.goto(f"{url}/#/{screen.address}")
    await arrive(page, screen.heading)


async def follow(page: Page, link: Locator, heading: str | re.Pattern[str]) -> None:
    """Click a link or button that leads to another screen, and wait until everything on that has arrived."""
    await link.click()
    await arrive(page, heading)


async def arrive(page: Page, heading: str | re.Pattern[str]) -> None:
    """Wait until the screen of this heading is drawn for the present address, with everything on it.

    Without this a locator such as `tbody tr` may still find a row of the screen before.
    """
    await expect(page.get_by_role("heading", level=1)).to_have_text(heading, timeout=PATIENCE_MS)
    await page.wait_for_function(HAS_ARRIVED, timeout=PATIENCE_MS)
