"""The page in a real Chromium: nothing mocked, nothing from elsewhere, at a desk's and at a phone's width.

With GATO_SCREENSHOTS=DIR and GATO_SERVER=URL the last test takes the pictures of docs/serving.md from a running server.
"""

import os
import shutil
import time
from pathlib import Path

import pytest
from real_server import running

from gato.serving.limits import Limits

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no chromium here", allow_module_level=True)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, port):
    """The page, opened; it must ask nobody but its server, and complain of nothing."""
    page = browser.new_page(viewport={"width": 1180, "height": 980})
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"http://127.0.0.1:{port}/")
    yield page
    page.close()
    assert all(url.startswith((f"http://127.0.0.1:{port}/", "data:")) for url in asked), asked
    assert not complaints


def until(true, seconds=60):
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "it did not happen"
        time.sleep(0.03)


def steps(page):
    return int(page.get_attribute("#return", "data-steps") or 0)


def test_a_world_is_watched(page):
    page.wait_for_selector("#play:enabled", timeout=60_000)
    assert page.input_value("#task") == "dummy/count"
    page.click("#step")
    until(lambda: steps(page) == 1)
    first = page.locator(".timestep").first
    kinds = [first.locator(f".k{k}").count() for k in range(5)]
    assert all(kinds) and kinds[4] == 1 and kinds[1] == 4  # every kind; one separator; 32 × 32 pixels are four patches
    assert first.locator(".done").count() == 3  # a button and a stick of two
    assert page.locator("#choices .choice").count() == 3 and page.locator(".prob.taken").count() == 1
    assert page.locator("#gaze").is_visible() and page.locator("#heads button").count() == 3
    assert page.get_attribute("#frame", "src").startswith("data:image/png")
    page.locator("#heads button").nth(1).click()
    assert page.locator("#heads button").nth(1).get_attribute("aria-pressed") == "true"

    page.click("#play")
    until(lambda: steps(page) >= 4)
    page.click("#play")
    page.wait_for_timeout(400)
    still = steps(page)
    page.wait_for_timeout(500)
    assert steps(page) == still and page.text_content("#play") == "Play"
    page.locator("#temperature").fill("0.1")
    assert page.text_content("#temperature-shown") == "0.1"
    page.click("#step")
    until(lambda: steps(page) == still + 1)
    page.click("#restart")
    until(lambda: steps(page) == 0 and page.locator(".timestep").count() == 0)


def test_captions_questions_and_chat(page):
    page.wait_for_selector("#play:enabled", timeout=60_000)
    page.click("#tab-captions")
    until(lambda: "In truth" in page.text_content("#caption-true"))  # an untrained network is not right
    page.locator("#captions [type=file]").set_input_files(
        {"name": "a.png", "mimeType": "image/png", "buffer": picture()}
    )
    until(lambda: page.text_content("#caption-true") == "" and page.text_content("#caption") not in ("–", "…"))
    page.click("#tab-questions")
    page.wait_for_selector("#questions canvas")
    page.locator(".chips button").nth(1).click()
    assert page.input_value("#question") == "what colour is the ball?"
    page.click("#ask .main")
    until(lambda: page.text_content("#answer") != "–")
    page.click("#tab-chat")
    page.fill("#text", "Return the")
    page.click("#say .main")
    page.wait_for_selector("#said blockquote")
    assert page.text_content("#said .given") == "Return the"
    assert page.locator("#problem").is_hidden()


def picture():
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (900, 300), (30, 90, 200)).save(stream, "PNG")
    return stream.getvalue()


def test_at_a_phones_width_nothing_sticks_out(browser, port):
    page = browser.new_page(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    page.goto(f"http://127.0.0.1:{port}/")
    page.wait_for_selector("#play:enabled", timeout=60_000)
    page.tap("#step")
    until(lambda: steps(page) == 1)
    for tab in ("act", "captions", "questions", "chat"):
        page.tap(f"#tab-{tab}")
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 360, tab
    for button in page.locator("#act .buttons button").all():
        box = button.bounding_box()
        assert box is None or box["height"] >= 32
    page.goto(f"http://127.0.0.1:{port}/docs")
    page.wait_for_selector(".route")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    page.close()


def test_a_token_is_asked_for(browser, agent):
    with running(agent, token="a-token-of-ours") as port:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("dialog[open]")
        page.fill("#token", "a-token-of-ours")
        page.click("dialog button")
        page.wait_for_selector("#play:enabled", timeout=60_000)
        page.close()
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/#token=a-token-of-ours")
        page.wait_for_selector("#play:enabled", timeout=60_000)
        assert "token" not in page.url
        page.close()


def test_the_page_waits_a_little_for_a_place(browser, agent):
    """Where the task is changed quickly the worlds left behind hold theirs until they end."""
    client = pytest.importorskip("websockets.sync.client")
    with running(agent, Limits(live=1)) as port:
        with client.connect(f"ws://127.0.0.1:{port}/v1/live", max_size=None) as other:
            other.send('{"task": "dummy/count"}')
            assert '"task"' in other.recv(60)
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{port}/")
            page.wait_for_timeout(1000)
            assert not page.is_enabled("#play") and page.locator("#problem").is_hidden()
        page.wait_for_selector("#play:enabled", timeout=60_000)
        assert page.locator("#problem").is_hidden()
        page.close()


@pytest.mark.skipif("GATO_SCREENSHOTS" not in os.environ, reason="takes the pictures of the documentation when asked")
def test_screenshots(browser):
    folder, url = Path(os.environ["GATO_SCREENSHOTS"]), os.environ["GATO_SERVER"]
    page = browser.new_page(viewport={"width": 1180, "height": 1080})
    page.goto(url)
    page.wait_for_selector("#play:enabled", timeout=60_000)
    for task, name in (
        ("sokoban/7x7-1-box", "sokoban.png"),
        ("meta-world/reach", "meta-world.jpg"),
        ("babyai/go-to-local", "babyai.png"),
    ):
        page.select_option("#task", task)
        page.wait_for_selector(f"#act[data-task='{task}']", timeout=90_000)
        page.click("#play")
        until(lambda: steps(page) >= 5)
        page.click("#play")
        page.wait_for_timeout(400)
        page.screenshot(path=folder / f"serve-{name}")
    page.click("#tab-captions")
    until(lambda: len(page.text_content("#caption-true")) > 3)
    page.screenshot(path=folder / "serve-captions.png", clip={"x": 0, "y": 0, "width": 1180, "height": 700})
    page.close()
    phone = browser.new_page(viewport={"width": 390, "height": 844}, is_mobile=True)
    phone.goto(url)
    phone.wait_for_selector("#play:enabled", timeout=60_000)
    phone.select_option("#task", "sokoban/7x7-1-box")
    phone.wait_for_selector("#act[data-task='sokoban/7x7-1-box']", timeout=90_000)
    phone.click("#step")
    until(lambda: steps(phone) == 1)
    phone.wait_for_timeout(400)
    phone.screenshot(path=folder / "serve-phone.png", full_page=True)
    phone.close()
