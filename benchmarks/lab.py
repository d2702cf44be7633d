"""The page in headless Chromium: weight, first picture, training, sampling, map, frames.

    python benchmarks/lab.py [repeats]

Needs playwright and /usr/bin/chromium. Every number is the median of the repeats, each in a fresh tab.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from toydiffusion.lab import page

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]

# Notes the longest time in which the page could not answer, and the gaps between frames.
WATCH = """
window.longest = 0; window.gaps = []; window.scripts = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.longest = Math.max(window.longest, entry.duration);
}).observe({ type: 'longtask', buffered: true });
const request = window.requestAnimationFrame.bind(window);
window.requestAnimationFrame = (work) => request((now) => {
  const start = performance.now(); work(now); window.scripts.push(performance.now() - start);
});
let before = 0;
const tick = (now) => { if (before) window.gaps.push(now - before); before = now; request(tick); };
request(tick);
"""


def link(**settings: object) -> str:
    """Return the address part that holds these settings."""
    given = {"data": {"kind": "law", "law": "square", "count": 1000, "seed": 0}} | settings
    return "#run=" + base64.urlsafe_b64encode(json.dumps(given).encode()).decode().rstrip("=")


def high(values: list[float], share: float = 0.95) -> float:
    """Return this quantile."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def visit(tab: Page, address: str) -> float:
    """Open the page; return the seconds until its first samples are drawn."""
    start = time.perf_counter()
    tab.goto(address)
    tab.wait_for_selector("text=/step 0 of [1-9]/")
    tab.wait_for_selector("text=KL by noise level")
    return time.perf_counter() - start


def train(tab: Page) -> tuple[float, float]:
    """Train to the end; return the seconds, and the KL divergence in nats."""
    start = time.perf_counter()
    tab.get_by_role("button", name="▶ Train").click()
    tab.wait_for_selector("text=▶ Train again", timeout=120_000)
    seconds = time.perf_counter() - start
    tab.wait_for_timeout(800)
    found = re.search(r"KL ([0-9.]+)", tab.inner_text("[data-test=status]"))
    assert found
    return seconds, float(found[1])


def mapped(tab: Page) -> tuple[float, float]:
    """Ask for the map of the learned log-density; return the seconds to its first and to its last picture."""
    start = time.perf_counter()
    tab.get_by_label("Map behind the points").select_option("learned")
    tab.wait_for_selector("canvas[data-map]")
    first = time.perf_counter() - start
    tab.wait_for_selector("canvas[data-map='200']", timeout=60_000)
    return first, time.perf_counter() - start


def once(browser, address: str) -> dict[str, float]:
    """Return every number of one visit."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, bypass_csp=True)
    tab = context.new_page()
    tab.add_init_script(WATCH)
    found = {"first picture, s": visit(tab, address)}
    tab.evaluate("window.longest = 0")
    found["training, s"], found["KL, nats"] = train(tab)
    found["longest block while training, ms"] = tab.evaluate("window.longest")
    tab.get_by_label("Steps", exact=True).last.fill("10")
    times = []
    for seed in range(7):
        tab.get_by_label("Seed", exact=True).last.fill(str(seed))
        tab.keyboard.press("Enter")
        tab.wait_for_timeout(250)
        times.append(float(re.findall(r"in ([0-9]+) ms", tab.inner_text("[data-test=speed]"))[0]))
    found["1,000 points in 10 steps, ms"] = statistics.median(times)
    found["first map, s"], found["map of 200 x 200, s"] = mapped(tab)
    context.close()

    context = browser.new_context(viewport={"width": 1280, "height": 800}, bypass_csp=True)
    tab = context.new_page()
    tab.add_init_script(WATCH)
    visit(tab, address + link(count=2000, config={"steps": 20_000}))
    tab.get_by_label("Map behind the points").select_option("exact")
    tab.wait_for_timeout(1500)
    tab.get_by_role("button", name="▶ Train").click()
    tab.get_by_label("Time", exact=True).fill("0")
    tab.evaluate("window.gaps = []; window.scripts = []")
    tab.get_by_role("button", name="Play time").click()
    tab.wait_for_timeout(3000)
    gaps, scripts = tab.evaluate("[window.gaps, window.scripts]")
    found["script a frame, 95 %, ms"], found["frame gap, 95 %, ms"] = high(scripts), high(gaps)
    context.close()
    return found


def main() -> None:
    """Print the table."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    text = page()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "lab.html"
        path.write_text(text)
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        rows = [once(browser, path.as_uri()) for _ in range(repeats)]
        browser.close()
    print(f"{'page, gzip, kB':36} {len(gzip.compress(text.encode(), 9)) / 1000:8.1f}")
    for name in rows[0]:
        values = [row[name] for row in rows]
        print(f"{name:36} {statistics.median(values):8.3g}   {min(values):.3g} to {max(values):.3g}")


if __name__ == "__main__":
    main()
