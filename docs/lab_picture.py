"""Draw the picture of the lab: `python docs/lab_picture.py` writes docs/lab.png. Needs Debian's chromium."""

from pathlib import Path

from playwright.sync_api import sync_playwright

import toydiffusion.lab

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]

page = Path(toydiffusion.lab.__file__).parent / "page" / "index.html"
with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
    tab = browser.new_page(viewport={"width": 1280, "height": 800})
    tab.goto(page.as_uri())
    tab.get_by_role("button", name="▶ Train").click()
    tab.wait_for_selector("text=▶ Train again", timeout=120_000)
    tab.get_by_label("Map behind the points").select_option("learned")
    tab.get_by_label("paths", exact=True).check()
    tab.wait_for_selector("canvas[data-map='200']", timeout=60_000)
    box = tab.locator("canvas").bounding_box()
    assert box
    tab.mouse.click(box["x"] + 0.62 * box["width"], box["y"] + 0.4 * box["height"])
    tab.wait_for_selector("[data-test=learned]")
    tab.wait_for_timeout(500)
    tab.screenshot(path=Path(__file__).with_name("lab.png"))
    browser.close()
