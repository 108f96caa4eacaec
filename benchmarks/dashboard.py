"""Measure the dashboard: the reader's Chromium, and the daemon while a page is open.

*paint* is the time until the overview, then a list of 200 of 1,000 rows, is drawn, on this machine and with the CPU
slowed six times. *open* alternates equal periods with and without a page at 50 events a second and compares the CPU
time of the daemon; the page's memory is read at the end of each period. Times depend on what else the machine does, the
CPU time hardly.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, CDPSession, Page, async_playwright

from benchmarks.harness import TOKEN, Peers, RunningDaemon, connection, daemon, endpoint, read_usage

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
TRIES = 5
PER_S = 50
NOTE_OVERVIEW = """new MutationObserver((_, observer) => {
  if (!document.querySelector("main .counts")) return;
  observer.disconnect();
  requestAnimationFrame(() => setTimeout(() => (window.drawnAt = performance.now())));
}).observe(document, { childList: true, subtree: true })"""
OVERVIEW = "main .counts"
DRAWN_AT = """async () => {
  while (!window.drawnAt) await new Promise((resolve) => setTimeout(resolve, 5));
  return window.drawnAt;
}"""
DRAW_ROWS = """async () => {
  const frame = () => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
  const began = performance.now();
  let first = 0;
  location.hash = "#/runs?limit=200";
  const rows = () => (document.querySelector("main").dataset.address === location.hash
    ? document.querySelectorAll("main tbody tr").length : 0);
  while (rows() < 200) {
    await frame();
    if (!first && rows() > 0) first = performance.now() - began;
  }
  await frame();
  return [first, performance.now() - began];
}"""


async def sign_in(browser: Browser, url: str) -> Page:
    """A page that is signed in and shows the overview."""
    page = await browser.new_page(viewport={"width": 1280, "height": 850})
    await page.add_init_script(NOTE_OVERVIEW)
    await page.goto(url)
    await page.get_by_label("API token").fill(TOKEN)
    await page.get_by_role("button", name="Sign in").click()
    await page.locator(OVERVIEW).first.wait_for()
    return page


async def register(client: RunningDaemon, first: int, count: int) -> None:
    """Register so many runs in one request."""
    runs = [{"connection": "dibby", "provider_run_id": f"r{n}"} for n in range(first, first + count)]
    async with client.http.post(f"{client.url}/v1/runs/batch", json={"runs": runs}) as answer:
        assert answer.status == 200, await answer.text()


async def task_ms(session: CDPSession) -> float:
    """CPU time of the page's main thread since it began."""
    metrics = (await session.send("Performance.getMetrics"))["metrics"]
    return float(1000 * next(one["value"] for one in metrics if one["name"] == "TaskDuration"))


async def paint(page: Page, session: CDPSession, slowed: int) -> None:
    """Print how long the overview and 200 rows take."""
    await session.send("Emulation.setCPUThrottlingRate", {"rate": slowed})
    await session.send("Performance.enable", {"timeDomain": "threadTicks"})
    overview, first, whole, cpu = [], [], [], []
    for _ in range(TRIES):
        await page.reload()
        await page.locator(OVERVIEW).first.wait_for()
        overview.append(await page.evaluate(DRAWN_AT))
        before = await task_ms(session)
        one, all_of_them = await page.evaluate(DRAW_ROWS)
        cpu.append(await task_ms(session) - before)
        first.append(one)
        whole.append(all_of_them)
        await page.goto(page.url.partition("#")[0] + "#/overview")
        await page.locator(OVERVIEW).first.wait_for()
    await session.send("Emulation.setCPUThrottlingRate", {"rate": 1})
    for what, times in (
        ("overview", overview),
        ("first 50 of 200 rows", first),
        ("all 200 rows", whole),
        ("main thread's CPU for them", cpu),
    ):
        spread = f"{min(times):,.0f} to {max(times):,.0f}"
        print(f"CPU / {slowed}: {what:26} {statistics.median(times):8,.0f} ms  ({spread})", flush=True)


@asynccontextmanager
async def events(client: RunningDaemon) -> AsyncIterator[list[int]]:
    """Fifty runs a second that end at once, each with an event; how many there were yet."""
    done = [0]

    async def load() -> None:
        began = time.monotonic()
        while True:
            body = {"connection": "dibby", "provider_run_id": f"e{began}-{done[0]}"}
            async with client.http.post(f"{client.url}/v1/runs", json=body) as answer:
                assert answer.status == 201, await answer.text()
            done[0] += 1
            await asyncio.sleep(max(0.0, began + done[0] / PER_S - time.monotonic()))

    task = asyncio.create_task(load())
    try:
        yield done
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def heap_mb(page: Page, session: CDPSession) -> float:
    """The page's memory behind a garbage collection."""
    await session.send("HeapProfiler.collectGarbage")
    used: dict[str, Any] = await session.send("Runtime.getHeapUsage")
    return float(used["usedSize"]) / 1e6


async def keep_open(
    page: Page, session: CDPSession, client: RunningDaemon, done: list[int], periods: int, period_s: float
) -> None:
    """Print what the page adds to the daemon's CPU beyond what the events themselves take, and the page's memory."""
    home = page.url.partition("#")[0]
    for address in ("overview", "events", "runs"):
        costs, more, heaps = [], [], []
        for _ in range(periods):
            per_event_s = 0.0
            for place in ("about:blank", f"{home}#/{address}"):
                await page.goto(place)
                await asyncio.sleep(3)
                before, first = read_usage(client.pid), done[0]
                await asyncio.sleep(period_s)
                after, count = read_usage(client.pid), done[0] - first
                cpu_s = after.cpu_s - before.cpu_s
                if place == "about:blank":
                    per_event_s = cpu_s / count
                    costs.append(100 * per_event_s * PER_S)
                else:
                    more.append(100 * (cpu_s - count * per_event_s) / (after.at - before.at))
            heaps.append(await heap_mb(page, session))
        print(
            f"open at {PER_S} events/s: {address:9} daemon {statistics.median(costs):5.1f} % of a core without it, "
            f"{statistics.median(more):+5.1f} with it ({', '.join(f'{one:+.1f}' for one in more)}); "
            f"memory of the page {heaps[0]:.1f} to {heaps[-1]:.1f} MB",
            flush=True,
        )


async def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--periods", type=int, default=3, help="pairs of periods with and without each page")
    parser.add_argument("--period", type=float, default=20.0, help="seconds of each")
    parser.add_argument("--only", choices=("paint", "open"))
    arguments = parser.parse_args()
    peers = Peers()
    with tempfile.TemporaryDirectory() as folder:
        async with peers.serve() as url, contextlib.AsyncExitStack() as stack:
            config = connection(url) + endpoint(url)
            client = await stack.enter_async_context(daemon(Path(folder), config))
            playwright = await stack.enter_async_context(async_playwright())
            browser = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
            await register(client, 0, 1000)
            await peers.all_received(1000)
            page = await sign_in(browser, client.url)
            session = await page.context.new_cdp_session(page)
            if arguments.only != "open":
                for slowed in (1, 6):
                    await paint(page, session, slowed)
            if arguments.only != "paint":
                async with events(client) as done:
                    await keep_open(page, session, client, done, arguments.periods, arguments.period)
            await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
