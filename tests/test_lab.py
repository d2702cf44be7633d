"""The page in a real browser, its server, and its engine's golden numbers.

The tests do what a person would do, and keep a picture of each screen in `.screenshots/`.
"""

from __future__ import annotations

import base64
import json
import re
import runpy
import socket
import struct
import subprocess
import sys
import threading
from http.client import HTTPConnection
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest

import toydiffusion as td
from toydiffusion import InputError
from toydiffusion.cli import main
from toydiffusion.distillation import DistillationWarning
from toydiffusion.lab import Server, export, page
from toydiffusion.tables import read

ROOT = Path(__file__).parent.parent
CHROMIUM = Path("/usr/bin/chromium")
AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
MODELS = ROOT / "web" / "tests"
PICTURES = ROOT / ".screenshots"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]

needs_browser = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs /usr/bin/chromium")


# The text and its server ------------------------------------------------------------------------------


def test_the_page_is_one_text_that_refers_to_nothing():
    text = page()
    assert not re.search(r'(?:src|href)="(?!data:)', text.replace('href="data:,"', ""))
    assert "default-src 'none'" in text
    assert "POLICY" not in text
    assert len(text) < 400_000


def test_a_model_in_the_page_is_data(tmp_path):
    model = tmp_path / 'a"<b>.safetensors'
    model.write_bytes((MODELS / "square.safetensors").read_bytes())
    text = page(model)
    content = re.search(r'id="model" data-name="([^"]*)">([^<]*)</script>', text)
    assert content[1] == "a&quot;&lt;b&gt;.safetensors"
    assert base64.b64decode(content[2]) == model.read_bytes()


def test_only_models_of_two_columns_are_shown(tmp_path):
    model = td.Diffusion(td.TrainConfig(steps=2)).fit(np.random.default_rng(0).normal(size=(20, 3)))
    model.save(tmp_path / "three.safetensors")
    with pytest.raises(InputError, match=r"two columns, and '.*' has 3"):
        export(tmp_path / "three.safetensors", tmp_path / "page.html")
    with pytest.raises(InputError, match=r"ends in '.html'"):
        export(MODELS / "square.safetensors", tmp_path / "page.txt")
    assert [file.name for file in tmp_path.iterdir()] == ["three.safetensors"]


def test_the_command_export(tmp_path, capsys):
    out = tmp_path / "rings.html"
    assert main(["export", str(MODELS / "rings.safetensors"), "--page", str(out)]) == 0
    assert "wrote" in capsys.readouterr().out
    assert 'data-name="rings.safetensors"' in out.read_text()
    assert main(["export", str(tmp_path / "none.safetensors"), "--page", str(out)]) == 2
    assert "there is no model file" in capsys.readouterr().err


def test_the_server_answers_its_own_page_and_nothing_else():
    with Server("<p>hello</p>") as server:
        threading.Thread(target=server.run, daemon=True).start()
        host = server.url.split("/")[2]
        own = {"Host": host}

        def ask(method="GET", path="/", headers=own):
            connection = HTTPConnection(host, timeout=10)
            connection.putrequest(method, path, skip_host=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
            return answer.status, body, answer.headers

        status, body, headers = ask()
        assert (status, body) == (200, b"<p>hello</p>")
        assert headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert ask("HEAD")[:2] == (200, b"")
        assert ask(headers=own | {"Origin": f"http://{host}"})[0] == 200
        for path in ("/etc/passwd", "/../../etc/passwd", "//x", "/%2e%2e/", "/index.html"):
            assert ask(path=path)[0] == 404, path
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
            assert ask(method)[0] == 501, method
        for wrong in (
            {"Host": "evil.example"},
            {"Host": "127.0.0.1"},
            {},
            own | {"Origin": "http://evil.example"},
            own | {"Origin": "null"},
        ):
            assert ask(headers=wrong)[0] == 403, wrong


def test_the_page_of_the_server_has_the_policy_of_the_page():
    with Server(page()) as server:
        threading.Thread(target=server.run, daemon=True).start()
        connection = HTTPConnection(server.url.split("/")[2], timeout=10)
        connection.request("GET", "/")
        policy = connection.getresponse().headers["Content-Security-Policy"]
        connection.close()
    assert "script-src 'sha256-" in policy
    assert policy.endswith("frame-ancestors 'none'")


def test_a_browser_that_leaves_early_leaves_no_trace(capsys):
    with Server("<p>" + "hello " * 10**6) as server:
        threading.Thread(target=server.run, daemon=True).start()
        host, port = server.url.split("/")[2].split(":")
        for _ in range(3):
            with socket.create_connection((host, int(port)), timeout=10) as leaving:
                # Closed with data unread and no time to linger: the server's next write fails.
                leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                leaving.sendall(f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
                leaving.recv(1)
        handlers = [t for t in threading.enumerate() if "process_request" in t.name]
        for thread in handlers:
            thread.join(timeout=10)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_the_command_lab_serves_until_it_is_interrupted():
    run = subprocess.Popen(
        [sys.executable, "-m", "toydiffusion", "lab", "--no-browser"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = run.stdout.readline()
    url = re.search(r"http://127\.0\.0\.1:\d+/", line)[0]
    connection = HTTPConnection(url.split("/")[2], timeout=10)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    connection.close()
    run.send_signal(2)
    out, err = run.communicate(timeout=20)
    assert (run.returncode, out, err) == (0, "the lab is closed\n", "")


@pytest.mark.slow
def test_the_golden_numbers_are_those_of_today(tmp_path):
    """What the engine's tests read is what Python computes; another processor rounds a little differently."""
    kept = json.loads((MODELS / "golden.json").read_text())
    now = runpy.run_path(str(MODELS / "golden.py"))["golden"](tmp_path)

    def compare(a, b, where):
        if isinstance(a, dict):
            assert a.keys() == b.keys(), where
            for key in a:
                compare(a[key], b[key], [*where, key])
        elif isinstance(a, list) and a and isinstance(a[0], float):
            # Weights along a training drift with rounding. Everything else is nearly exact.
            loose = 0.05 if where[0] == "models" else 1e-12
            np.testing.assert_allclose(a, b, rtol=loose, atol=loose, err_msg=str(where))

    compare(kept, now, [])


# The page in a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        running = started.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "lab.html"
    path.write_text(page())
    return path.as_uri()


@pytest.fixture
def visit(browser, address):
    """Open the page: a function of the part of its address after #. It asks no other host, ever."""
    contexts, trouble = [], []

    def go(after="", *, width=1280, height=800, dark=False, still=True, at=address):
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce" if still else "no-preference",
            accept_downloads=True,
        )
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(30_000)
        tab.on("pageerror", lambda error: trouble.append(str(error)))
        # The tests themselves read pixels back, of which the browser warns.
        tab.on(
            "console",
            lambda m: (
                trouble.append(m.text)
                if m.type in ("error", "warning") and "getImageData" not in m.text
                else None
            ),
        )
        allowed = ("file:", "data:", "blob:", "http://127.0.0.1:")
        tab.on("request", lambda r: None if r.url.startswith(allowed) else trouble.append(r.url))
        tab.goto(at + ("#" + after if after else ""))
        tab.wait_for_selector("text=/step [0-9,]+ of [1-9]/")
        return tab

    yield go
    for context in contexts:
        context.close()
    assert trouble == []


def link(**settings):
    """Return the part after # that holds these settings."""
    given = {"data": {"kind": "law", "law": "square", "count": 200, "seed": 0}} | settings
    return "run=" + base64.urlsafe_b64encode(json.dumps(given).encode()).decode().rstrip("=")


SMALL = {"width": 16, "edges": 8, "steps": 60}


def train(tab):
    tab.get_by_role("button", name="▶ Train").click()
    tab.wait_for_selector("text=▶ Train again", timeout=90_000)
    last = re.search(r"step ([0-9,]+) of", status(tab))[1].replace(",", "")
    tab.wait_for_selector(f"[data-sampled^='{last} ']")


def pick(tab, name):
    return tab.get_by_role("combobox", name=name, exact=True)


def status(tab):
    return tab.inner_text("[data-test=status]")


def message(tab):
    return tab.inner_text(".message")


def picture(tab, name, **options):
    PICTURES.mkdir(exist_ok=True)
    tab.screenshot(path=PICTURES / f"{name}.png", **options)


def pixels(tab):
    """Return the share of the plane that is not of the colour of the page."""
    return tab.evaluate(
        """() => {
          const canvas = document.querySelector('canvas'), { width, height } = canvas;
          const { data } = canvas.getContext('2d').getImageData(0, 0, width, height);
          let other = 0;
          for (let i = 0; i < data.length; i += 4) if (Math.abs(data[i] - data[0]) > 24) other++;
          return other / (width * height);
        }"""
    )


def pixels_at_rest(tab):
    """Return `pixels` once they have stopped changing: the page paints in its own time."""
    values = [-1.0]

    def rests():
        values.append(pixels(tab))
        sleep(0.2)
        return 0 < values[-1] == values[-2]

    _until(rests, lambda: f"the canvas keeps changing: {values[-3:]}")
    return values[-1]


def click_at(tab, x, y, half=2.75 / 3**0.5):
    """Click the plane at (x, y); the window of the square reaches `half` from its middle."""
    box = tab.locator("canvas").first.bounding_box()
    scale = box["width"] / (2 * half)
    tab.mouse.click(box["x"] + box["width"] / 2 + x * scale, box["y"] + box["height"] / 2 - y * scale)


@needs_browser
@pytest.mark.slow
def test_a_first_visit(visit):
    tab = visit()
    train(tab)
    _until(lambda: float(re.search(r"KL ([0-9.]+) nats", status(tab))[1]) < 0.05, lambda: status(tab))
    tab.get_by_label("Map behind the points").select_option("learned")
    _until(lambda: pixels(tab) > 0.2, lambda: "there is no map")
    click_at(tab, 0.3, 0.3)
    value = tab.locator("[data-test=learned]").inner_text()
    assert abs(float(value.split(" ± ")[0].replace("−", "-")) + 1.386) < 0.3
    assert tab.locator("[data-test=exact]").inner_text() == "−1.386"
    for theme in ("light", "dark"):
        for width, height in ((1280, 800), (390, 844)):
            tab.set_viewport_size({"width": width, "height": height})
            tab.wait_for_timeout(300)
            # Nothing is wider than the screen.
            assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
            picture(tab, f"first-{theme}-{width}", full_page=width < 500)
        tab.get_by_role("button", name="Dark theme" if theme == "light" else "Light theme").click()
    assert visit(dark=True).evaluate("document.documentElement.dataset.theme") == "dark"


@needs_browser
@pytest.mark.slow
@pytest.mark.skipif(not AXE.exists(), reason="needs axe-core: npm ci in web/")
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(
    "after",
    [
        "",
        "lesson=steps",
        link(data={"kind": "law", "law": "two_moons", "count": 200, "seed": 0}, config=SMALL),
    ],
)
def test_no_barrier_for_anybody(visit, after, dark):
    tab = visit(after, dark=dark)
    if not after.startswith("lesson"):
        tab.get_by_role("button", name="Step once").click()
        tab.wait_for_selector("text=noise level σ")
    tab.evaluate(AXE.read_text())
    found = tab.evaluate("axe.run()")["violations"]
    assert [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found] == []


@needs_browser
@pytest.mark.slow
def test_the_same_run_in_python(visit, tmp_path):
    """The lines that the page copies draw the same points, train the same network, and sample the same."""
    law = {"kind": "law", "law": "two_moons", "count": 300, "seed": 5}
    tab = visit(
        link(data=law, config=SMALL | {"steps": 100}, seed=3, count=40, sampleSeed=9, sampling={"steps": 6})
    )
    train(tab)
    tab.get_by_label("Take").select_option("python")
    tab.wait_for_selector("text=The lines of Python are copied")
    script = tab.evaluate("navigator.clipboard.readText()")
    with tab.expect_download() as waiting:
        tab.get_by_label("Take").select_option("csv")
    waiting.value.save_as(tmp_path / "samples.csv")
    ours = read(tmp_path / "samples.csv", label_column="label")
    names = {}
    exec(script, names)
    np.testing.assert_allclose(ours.points, names["samples"], atol=1e-4)
    assert names["densities"].met.all()


@needs_browser
@pytest.mark.slow
def test_rewind_gives_the_same_run(visit, tmp_path):
    tab = visit(link(config=SMALL, count=30))
    texts = []
    for _ in range(2):
        train(tab)
        with tab.expect_download() as waiting:
            tab.get_by_label("Take").select_option("csv")
        waiting.value.save_as(tmp_path / "one.csv")
        texts.append((tmp_path / "one.csv").read_text())
        tab.get_by_role("button", name="Rewind").click()
        tab.wait_for_selector("text=step 0 of 60")
    assert texts[0] == texts[1]
    assert texts[0].startswith("x0,x1\n")


@needs_browser
@pytest.mark.slow
def test_one_step_with_every_term(visit):
    tab = visit(link(config=SMALL))
    tab.get_by_role("button", name="Step once").click()
    tab.wait_for_selector("text=Step 1, its first point")
    assert status(tab).startswith("step 1 of 60")
    rows = dict(zip(tab.locator("th").all_inner_texts(), tab.locator("td").all_inner_texts(), strict=True))

    def pair(name):
        return np.array([float(v.replace("−", "-")) for v in rows[name].strip("()").split(", ")])

    sigma = float(rows["noise level σ"])
    np.testing.assert_allclose(
        pair("noisy z + σ ε"), pair("clean point z") + sigma * pair("noise ε"), atol=0.02 * (1 + sigma)
    )
    # EDM's preconditioning: D = c_skip z + c_out F, the weight is 1 / c_out^2.
    skip, gain = 1 / (1 + sigma**2), sigma / (1 + sigma**2) ** 0.5
    np.testing.assert_allclose(
        pair("denoised D"), skip * pair("noisy z + σ ε") + gain * pair("F says"), atol=0.02 * (1 + sigma)
    )
    assert float(rows["weight of |D − z|²"].replace("−", "-")) == pytest.approx(gain**-2, rel=0.02)
    picture(tab, "one-step")


@needs_browser
@pytest.mark.slow
def test_a_model_from_python_and_back(visit, tmp_path):
    for name, places in (("square", [(0.3, 0.3), (1.2, -0.4)]), ("rings", [(0.1, 0.1)])):
        model = td.load(MODELS / f"{name}.safetensors")
        tab = visit(at=_exported(tmp_path, name))
        assert tab.get_by_label("Point set").input_value() == "own"
        assert status(tab).startswith(f"{name}.safetensors: step 300 of 300")
        mean, scale = model.standardizer.mean, model.standardizer.scale
        for x, y in places:
            tab.get_by_label("Map behind the points").select_option("none")
            box = tab.locator("canvas").first.bounding_box()
            half = 2.75 * float(scale.max())
            unit = box["width"] / (2 * half)
            tab.mouse.click(
                box["x"] + box["width"] / 2 + (x - float(mean[0])) * unit,
                box["y"] + box["height"] / 2 - (y - float(mean[1])) * unit,
            )
            tab.wait_for_timeout(1500)
            # A mouse points at whole pixels, so the page says where.
            at = [
                float(v.replace("−", "-"))
                for v in re.search(r"\((.*)\)", tab.inner_text("section h2"))[1].split(", ")
            ]
            value, error = tab.locator("[data-test=learned]").inner_text().replace("−", "-").split(" ± ")
            exact = model.log_prob([at])
            slope = np.abs(model.score([at])).sum() * 0.005
            assert abs(float(value) - exact.value[0]) < float(error) + exact.error[0] + slope + 1e-3
        with tab.expect_download() as waiting:
            tab.get_by_label("Take").select_option("model")
        waiting.value.save_as(tmp_path / "back.safetensors")
        again = td.load(tmp_path / "back.safetensors")
        x = model.sample(20, seed=0)
        np.testing.assert_array_equal(x, again.sample(20, seed=0))
        np.testing.assert_array_equal(model.log_prob(x).value, again.log_prob(x).value)
        picture(tab, f"model-{name}")


def _exported(folder, name):
    export(MODELS / f"{name}.safetensors", folder / f"{name}.html")
    return (folder / f"{name}.html").as_uri()


@needs_browser
@pytest.mark.slow
def test_a_distilled_model_opens_without_its_students(visit, tmp_path):
    teacher = td.load(MODELS / "square.safetensors")
    with pytest.warns(DistillationWarning):  # after so few steps
        quick = td.distill(teacher, td.DistillConfig(points=2000, steps=40), progress=False)
    quick.save(tmp_path / "quick.safetensors")
    export(tmp_path / "quick.safetensors", tmp_path / "quick.html")
    tab = visit(at=(tmp_path / "quick.html").as_uri())
    assert status(tab).startswith("quick.safetensors: step 300 of 300")
    assert message(tab) == ""


@needs_browser
@pytest.mark.slow
def test_a_model_trained_in_the_page_is_one_of_python(visit, tmp_path):
    tab = visit(
        link(
            config=SMALL | {"waves": 2},
            data={"kind": "law", "law": "concentric_squares", "count": 200, "seed": 0},
        )
    )
    train(tab)
    with tab.expect_download() as waiting:
        tab.get_by_label("Take").select_option("model")
    waiting.value.save_as(tmp_path / "page.safetensors")
    model = td.load(tmp_path / "page.safetensors")
    assert model.classes.tolist() == [0, 1, 2, 3, 4]
    assert model.config == td.TrainConfig(**SMALL, waves=2)
    assert model.fitted.provenance.versions == (("toydiffusion lab", td.__version__),)
    law = td.distributions.ConcentricSquares()
    x, y = law.sample(200, seed=0)
    same = td.Diffusion(td.TrainConfig(**SMALL, waves=2)).fit(x, y, seed=0)
    np.testing.assert_allclose(model.sample(50, seed=1), same.sample(50, seed=1), atol=1e-4)
    np.testing.assert_allclose(model.standardizer.mean, same.standardizer.mean, atol=1e-12)


@needs_browser
@pytest.mark.slow
def test_files_that_cannot_be_read(visit, tmp_path):
    good = (MODELS / "square.safetensors").read_bytes()
    three = td.Diffusion(td.TrainConfig(steps=2)).fit(np.random.default_rng(0).normal(size=(20, 3)))
    three.save(tmp_path / "three.safetensors")
    altered = bytearray(good)
    altered[-100] ^= 1
    files = {
        "words.csv": (b"x,y\n1,2\nred,4\n", 'Row 3 has "red" where a number is expected'),
        "ragged.csv": (b"1,2\n1,2,3\n", "Row 2 has 3 columns, not 2"),
        "wide.csv": (b"1,2,3,4\n", "Row 1 has 4 columns"),
        "empty.csv": (b"", "The file is empty"),
        "one.csv": (b"1,2\n", "fewer than two points"),
        "flat.csv": (b"1,2\n1,3\n1,4\n", "horizontal or vertical line"),
        "huge.csv": (b"1,2\n" * 1_500_000, "has 6 MB; the page reads at most 5 MB"),
        "many.csv": (b"1,2\n" * 20_001, "at most 20000"),
        "altered.safetensors": (bytes(altered), "its contents do not match its digest"),
        "cut.safetensors": (good[:-100], "cut off"),
        "noise.safetensors": (b"\x00" * 50, "not a model file"),
        "three.safetensors": ((tmp_path / "three.safetensors").read_bytes(), "This model has 3 columns"),
    }
    tab = visit(link(config=SMALL))
    before = tab.get_by_label("Point set").input_value()
    for name, (content, words) in files.items():
        tab.locator("input[type=file]").set_input_files(
            {"name": name, "mimeType": "application/octet-stream", "buffer": content}
        )
        _until(lambda words=words: words in message(tab), lambda: message(tab))
        # The run that was there is still there.
        assert status(tab).startswith("step 0 of 60")
        assert tab.get_by_label("Point set").input_value() == before


def _until(holds, what, seconds=15):
    stop = monotonic() + seconds
    while not holds():
        assert monotonic() < stop, what()
        sleep(0.05)


@needs_browser
@pytest.mark.slow
def test_a_table_of_ones_own(visit):
    rng = np.random.default_rng(0)
    rows = [f"{x:.4f},{y:.4f},{'<b>left</b>' if x < 0 else 'right'}" for x, y in rng.normal(size=(150, 2))]
    tab = visit(link(config=SMALL))
    content = ("width,height,side\n" + "\n".join(rows) + "\n").encode()
    tab.locator("input[type=file]").set_input_files(
        {"name": "own.csv", "mimeType": "text/csv", "buffer": content}
    )
    _until(lambda: tab.get_by_label("Point set").input_value() == "own", lambda: message(tab))
    _until(lambda: pick(tab, "Class").count() == 1, lambda: message(tab))
    # A label is text, whatever it looks like.
    assert pick(tab, "Class").locator("option").all_inner_texts() == [
        "all",
        "<b>left</b>",
        "right",
    ]
    tab.get_by_label("Held out, %").fill("20")
    tab.get_by_label("Held out, %").press("Enter")
    train(tab)
    tab.wait_for_selector("text=held out")
    tab.wait_for_selector("text=/Memorised [0-9]+ %/")
    pick(tab, "Class").select_option("1")
    tab.wait_for_selector("[data-sampled$=' 1']")
    with tab.expect_download() as waiting:
        tab.get_by_label("Take").select_option("csv")
    lines = Path(waiting.value.path()).read_text().splitlines()
    assert lines[0] == "x0,x1,label"
    assert {line.split(",")[2] for line in lines[1:]} == {'"right"'}
    picture(tab, "own-table")


@needs_browser
@pytest.mark.slow
def test_points_drawn_and_erased(visit):
    tab = visit(link(config=SMALL))
    box = tab.locator("canvas").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.get_by_role("button", name="Brush").click()
    for c, shift in ((0, -100), (1, 100)):
        tab.get_by_label("Class of the brush").select_option(str(c))
        tab.mouse.move(middle[0] + shift, middle[1] - 60)
        tab.mouse.down()
        tab.mouse.move(middle[0] + shift, middle[1] + 60, steps=12)
        tab.mouse.up()
    _until(lambda: tab.get_by_label("Point set").input_value() == "own", lambda: message(tab))
    _until(lambda: pick(tab, "Class").locator("option").count() == 3, lambda: message(tab))
    train(tab)
    picture(tab, "drawn")
    tab.get_by_role("button", name="Share").click()
    tab.wait_for_selector("text=The link is copied")
    shared = visit(tab.url.split("#")[1])
    assert shared.get_by_label("Point set").input_value() == "own"
    assert pick(shared, "Class").locator("option").count() == 3
    tab.get_by_role("button", name="Eraser").click()
    tab.mouse.move(middle[0] + 100, middle[1] - 70)
    tab.mouse.down()
    tab.mouse.move(middle[0] + 100, middle[1] + 70, steps=20)
    tab.mouse.up()
    _until(lambda: pick(tab, "Class").count() == 0, lambda: message(tab))


@needs_browser
@pytest.mark.slow
def test_a_lesson_whose_training_is_stopped_says_so(visit):
    tab = visit("lesson=seeds")
    tab.locator("section input[type=radio]").first.check()
    for stop in ("❚❚ Pause", "Rewind"):
        tab.locator("section button.main").click()
        tab.wait_for_selector("text=/step [1-9][0-9]* of 1,500/")
        tab.get_by_role("button", name=stop).click()
        tab.wait_for_selector("text=The training was stopped on the way")
        assert tab.locator("[data-test=answer]").count() == 0


@needs_browser
@pytest.mark.slow
def test_a_drawing_without_points_leaves_the_run_as_it_was(visit):
    tab = visit(link(config=SMALL))
    before = pixels_at_rest(tab)
    tab.get_by_role("button", name="Eraser").click()
    box = tab.locator("canvas").bounding_box()
    tab.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    _until(lambda: "Draw at least two points" in message(tab), lambda: message(tab))
    assert tab.get_by_label("Point set").input_value() == "square"
    _until(lambda: abs(pixels(tab) - before) < 1e-3, lambda: "the points are gone")


@needs_browser
@pytest.mark.slow
def test_a_shared_link_is_data(visit):
    wanted = {
        "data": {"kind": "law", "law": "spiral", "count": 321, "seed": 4},
        "config": SMALL | {"schedule": "cosine", "preconditioning": "data"},
        "sampling": {"steps": 7, "solver": "heun", "sigma_start": 3.5, "guidance": 2.5},
        "seed": 11,
        "sampleSeed": 12,
        "count": 99,
        "label": 1,
    }
    tab = visit(link(**wanted))
    assert tab.get_by_label("Point set").input_value() == "spiral"
    assert tab.get_by_label("Noise levels (schedule)").input_value() == "cosine"
    assert pick(tab, "Solver").input_value() == "heun"
    assert pick(tab, "Class").input_value() == "1"
    tab.get_by_role("button", name="Share").click()
    tab.wait_for_selector("text=The link is copied")
    after = tab.url.split("#run=")[1]
    again = json.loads(base64.urlsafe_b64decode(after + "=" * (-len(after) % 4)))
    assert again == wanted

    evil = "<img src=x onerror=alert(1)>"
    for broken in (
        "run=%%%",
        "run=" + base64.b64encode(b"[1,2]").decode(),
        link(data={"kind": "law", "law": "__proto__", "count": 10, "seed": 0}),
        link(data={"kind": "points", "points": [1, evil], "labels": None, "names": None}),
        link(data={"kind": "points", "points": [1, 2, 3], "labels": None, "names": None}),
    ):
        tab = visit(broken)
        assert "This link is not one of ours" in message(tab)
        assert tab.get_by_label("Point set").input_value() == "square"
    tab = visit(link(config={"width": 10**9, "schedule": evil, "steps": -1, "learning_rate": "x"}))
    assert tab.get_by_label("Width").input_value() == "64"
    named = {"kind": "points", "points": [0, 0, 1, 1, 2, 0.5], "labels": [0, 1, 1], "names": [evil, "b"]}
    tab = visit(link(data=named, config=SMALL))
    assert pick(tab, "Class").locator("option").all_inner_texts()[1] == evil
    assert tab.locator("img").count() == 0


@needs_browser
@pytest.mark.slow
def test_two_runs_side_by_side(visit):
    tab = visit(link(config=SMALL))
    tab.get_by_role("button", name="Compare two").click()
    assert tab.locator("canvas").count() == 2
    texts = []
    for name in ("A (left)", "B (right)"):
        tab.get_by_role("button", name=name).click()
        tab.wait_for_selector("[data-sampled^='0 ']")
        with tab.expect_download() as waiting:
            tab.get_by_label("Take").select_option("csv")
        texts.append(Path(waiting.value.path()).read_text())
    # The same settings, from the same noise.
    assert texts[0] == texts[1]
    tab.get_by_label("Noise levels (schedule)").select_option("sqrt")
    train(tab)
    tab.wait_for_timeout(500)
    tab.get_by_role("button", name="A (left)").click()
    assert tab.get_by_label("Noise levels (schedule)").input_value() == "flow-matching"
    _until(lambda: status(tab).startswith("step 60 of 60"), lambda: status(tab))
    tab.get_by_label("score", exact=True).check()
    tab.wait_for_timeout(600)
    picture(tab, "compare")
    tab.get_by_role("button", name="Compare two").click()
    assert tab.locator("canvas").count() == 1


@needs_browser
@pytest.mark.slow
def test_time_runs_both_ways(visit):
    tab = visit(link(config=SMALL), still=False)
    tab.get_by_role("button", name="data → noise").click()
    time = tab.get_by_label("Time", exact=True)
    assert tab.inner_text("output") == "σ = 0"
    near = pixels_at_rest(tab)
    time.fill("0.5")
    assert tab.inner_text("output") != "σ = 0"
    tab.get_by_label("Map behind the points").select_option("exact")
    tab.wait_for_timeout(2500)
    assert pixels(tab) > near
    picture(tab, "forward")
    time.fill("0")
    tab.get_by_role("button", name="Play time").click()
    _until(lambda: float(time.input_value()) == 1, lambda: time.input_value())
    assert tab.inner_text("output") == "σ = 20.00"
    tab.get_by_role("button", name="noise → samples").click()
    time.fill("0")
    # The default of 15 steps starts at three fifths of their number.
    assert tab.inner_text("output") == "σ = 9.00"
    tab.keyboard.press("End")
    assert tab.inner_text("output") == "σ = 0"


@needs_browser
@pytest.mark.slow
def test_many_steps_and_too_many(visit):
    tab = visit(link(config=SMALL, count=100, sampling={"steps": 5000, "solver": "euler"}))
    tab.get_by_label("Time", exact=True).fill("0.5")
    level = tab.locator("output")
    _until(lambda: level.inner_text() != "σ = 0", lambda: "no samples")
    assert 0.1 < float(level.inner_text().removeprefix("σ = ")) < 1
    tab.get_by_label("Points", exact=True).last.fill("20000")
    tab.keyboard.press("Enter")
    _until(lambda: "20,000 points in 5,000 steps take too long" in message(tab), lambda: message(tab))


@needs_browser
@pytest.mark.slow
def test_what_a_hovered_point_may_have_been(visit):
    tab = visit(link(config=SMALL))
    tab.get_by_label("data", exact=True).uncheck()
    tab.get_by_label("samples", exact=True).uncheck()
    tab.get_by_label("Time", exact=True).fill("0.5")
    box = tab.locator("canvas").bounding_box()
    tab.wait_for_timeout(300)
    before = pixels_at_rest(tab)
    tab.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.4 * box["height"])
    tab.mouse.move(box["x"] + 0.41 * box["width"], box["y"] + 0.4 * box["height"])
    # The cloud of 200 points, and the way to their mean.
    _until(lambda: pixels(tab) > before + 0.001, lambda: "nothing is shown")
    picture(tab, "hover")
    tab.mouse.move(box["x"] - 40, box["y"] - 5)
    _until(lambda: pixels(tab) <= before + 0.0005, lambda: "it stays")


@needs_browser
@pytest.mark.slow
def test_a_window_that_changes_and_a_tab_that_is_left(visit):
    tab = visit(link(config=SMALL | {"steps": 400}))
    tab.get_by_role("button", name="▶ Train").click()
    other = tab.context.new_page()
    other.bring_to_front()
    tab.wait_for_timeout(500)
    other.close()
    tab.set_viewport_size({"width": 700, "height": 600})
    tab.wait_for_selector("text=▶ Train again", timeout=60_000)
    # The picture follows the window with the next frame.
    sizes = "[document.querySelector('canvas').width, document.querySelector('canvas').clientWidth]"
    _until(lambda: abs(np.diff(tab.evaluate(sizes))[0]) <= 2, lambda: tab.evaluate(sizes))
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert pixels(tab) > 0.005


@needs_browser
@pytest.mark.slow
def test_a_file_dropped_onto_the_page(visit):
    tab = visit(link(config=SMALL))
    tab.evaluate(
        """() => {
          const data = new DataTransfer();
          data.items.add(new File(['1,2\\n2,3\\n4,1\\n'], 'three.csv'));
          const drop = { dataTransfer: data, bubbles: true, cancelable: true };
          window.dispatchEvent(new DragEvent('drop', drop));
        }"""
    )
    _until(lambda: tab.get_by_label("Point set").input_value() == "own", lambda: message(tab))


@needs_browser
@pytest.mark.slow
def test_with_the_keyboard_alone(visit):
    tab = visit(link(config=SMALL))
    tab.locator("canvas").focus()
    for key in ["ArrowRight", "ArrowRight", "ArrowUp", "Enter"]:
        tab.keyboard.press(key)
    tab.wait_for_selector("text=/How probable is .0.1[0-9]+, 0.0/")
    before = tab.get_by_label("Time", exact=True).input_value()
    tab.get_by_label("Time", exact=True).fill("0")
    tab.locator("canvas").focus()
    tab.keyboard.press(" ")
    _until(lambda: tab.get_by_label("Time", exact=True).input_value() == before, lambda: "time stands still")


@needs_browser
@pytest.mark.slow
def test_a_lesson_is_settled_by_a_number(visit):
    """One run serves most of the lessons, as for a person who goes on and on."""
    expected = {
        "forward": r"1\.4\d",
        "learns": r"0\.[2-8]\d*",
        "steps": r"Euler 1: 0\.\d+, .* 100: 0\.1\d*; default 1: 0\.\d+, 3: 0\.1.*",
        "schedules": r"sqrt: 0\.[5-9]\d*, linear: 0\.[3-9]\d*, exp: 0\.[12]\d*",
        "probable": r"−1\.\d+ ± .* learned, −1\.386 exact",
        "backwards": r"standard deviation 0\.[01]\d+; the right way round 0\.5\d+",
        "start": r"0\.4\d+; with the right start 0\.5\d+",
        "one-noise": r"[01]\.\d+ from 0; with noise of their own 0\.0\d+",
        "no-square": r"−\d{2,}\.\d+; right −1\.\d+, exact −1\.386",
        "zero": r"1/0² = ∞; at σ = 0\.01: 10,000",
        "seeds": r"5",
        "memory": r"0\.[3-8]\d* at its own, [01]\.\d+ at fresh points \(least possible 0\.8\d+\)",
        "classes": r"[4-8]\d\.\d %",
        "guidance": r"[2-7]\d\.\d %; without guidance 9\d\.\d %",
    }
    tab = visit("lesson=forward")
    for lesson, number in expected.items():
        pick(tab, "Lesson").select_option(lesson)
        play = tab.locator("section button.main")
        _until(lambda play=play: play.inner_text() == "Predict first", lambda lesson=lesson: lesson)
        assert play.is_disabled()
        tab.locator("section input[type=radio]").first.check()
        play.click()
        tab.wait_for_selector("[data-test=answer]", timeout=90_000)
        assert re.fullmatch(number, tab.inner_text("[data-test=answer]"))
        assert message(tab) == ""
        tab.wait_for_timeout(300)
        picture(tab, f"lesson-{lesson}")
    assert tab.url.endswith("#lesson=guidance")
    tab.reload()
    tab.wait_for_selector("text=✓")


@needs_browser
@pytest.mark.slow
def test_the_server_may_go(visit):
    with Server(page()) as server:
        threading.Thread(target=server.run, daemon=True).start()
        tab = visit(link(config=SMALL), at=server.url)
        other = visit(link(config=SMALL, seed=1), at=server.url)
    # The page needs the server no more; two tabs do not disturb each other.
    train(tab)
    train(other)
    assert tab.evaluate("document.title") == "Toy-Diffusion lab"
