"""The page in a real browser: Debian's chromium, driven by selenium."""

import base64
import json
import os
import shutil

import pytest

from radrep.viz.html.page import render_page
from tests.viz.example import make_page

pytestmark = pytest.mark.slow

FLAGS = [
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# Contrast (WCAG 2) of every text that is shown, against the first ground that is not transparent.
CONTRASTS = """
const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
function pixel(colour) {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return canvas.getImageData(0, 0, 1, 1).data;
}
function luminance(colour) {
  const [r, g, b] = [...pixel(colour)].slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function ground(element) {
  for (let e = element; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if (pixel(colour)[3] == 255) return colour;
  }
  throw new Error("no ground");
}
const found = [];
for (const element of document.body.querySelectorAll("*")) {
  const own = [...element.childNodes].some(n => n.nodeType == 3 && n.data.trim());
  if (!own || !element.checkVisibility({visibilityProperty: true})) continue;
  const style = getComputedStyle(element);
  const ink = element.tagName == "text" ? style.fill : style.color;
  const [a, b] = [luminance(ink), luminance(ground(element))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  found.push([ratio, element.tagName + "." + element.classList + ": " + element.textContent]);
}
return found;
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver) and "CI" not in os.environ:
        pytest.skip("chromium and chromedriver are missing: apt-get install chromium-driver")
    assert chromium, "chromium is missing: apt-get install chromium"
    assert driver, "chromedriver is missing: apt-get install chromium-driver"
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    for flag in (*FLAGS, *root, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    with webdriver.Chrome(options=options, service=service) as running:
        yield running


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_page(make_page()), encoding="utf-8")
    return path.as_uri()


def show(browser, address, *, width=1280, dark=False):
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(address)


def open_details(browser):
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_screen(browser, address, width):
    show(browser, address, width=width)
    open_details(browser)
    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    # What scrolls by itself is a table; nothing else sticks out of the column.
    outside = browser.execute_script(
        "return [...document.querySelectorAll('main *')]"
        ".filter(e => !e.closest('.scroll, .spoken, i'))"
        ".filter(e => e.getBoundingClientRect().right > innerWidth)"
        ".map(e => e.outerHTML.slice(0, 90))"
    )
    assert outside == []


@pytest.mark.parametrize("width", [360, 1280])
def test_answer_comes_before_any_scrolling(browser, address, width):
    show(browser, address, width=width)
    bottom = "return document.querySelector('{}').getBoundingClientRect().bottom"
    assert browser.execute_script(bottom.format(".answer")) < 800
    if width == 1280:
        assert browser.execute_script(bottom.format("#plot-m-cider-p-full")) < 800


def test_metric_is_changed_from_the_keyboard(browser, address):
    from selenium.webdriver import ActionChains, Keys

    def press(key):
        ActionChains(browser).send_keys(key).perform()

    def focused():
        return browser.switch_to.active_element.get_attribute("id")

    def shown():
        return [
            figure.get_attribute("id")
            for figure in browser.find_elements("css selector", "figure.panel")
            if figure.is_displayed()
        ]

    show(browser, address)
    for _ in range(20):
        press(Keys.TAB)
        if focused() == "m-cider":
            break
    assert focused() == "m-cider"
    assert shown() == ["plot-m-cider-p-full"]
    outline = browser.execute_script(
        "return getComputedStyle(document.querySelector('label[for=m-cider]')).outlineStyle"
    )
    assert outline == "solid"
    press(Keys.ARROW_LEFT)
    assert focused() == "m-rouge_l"
    assert shown() == ["plot-m-rouge_l-p-full"]
    press(Keys.TAB)
    press(Keys.ARROW_RIGHT)
    assert shown() == ["plot-m-rouge_l-p-published"]
    ActionChains(browser).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()
    for _ in range(2):
        press(Keys.ARROW_RIGHT)
    assert shown() == ["plot-f-14"]
    protocol = browser.find_element("css selector", "fieldset.protocol")
    assert not protocol.is_displayed(), "findings have no protocol"


def test_tables_and_details_are_reached_by_keyboard(browser, address):
    from selenium.webdriver import ActionChains, Keys

    show(browser, address)
    reached = []
    for _ in range(60):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        reached.append(browser.switch_to.active_element)
        if reached[-1].text == "Environment":
            break
    assert "Scores, full protocol" in [e.get_attribute("aria-label") for e in reached]
    environment = browser.find_element("xpath", "//details[summary='Environment']/dl")
    assert not environment.is_displayed()
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    assert environment.is_displayed()


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_has_contrast_in_both_schemes(browser, address, dark):
    show(browser, address, dark=dark)
    open_details(browser)
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(22, 23, 26)" if dark else "rgb(252, 251, 248)")
    contrasts = browser.execute_script(CONTRASTS)
    assert len(contrasts) > 500
    assert [(ratio, text[:80]) for ratio, text in contrasts if ratio < 4.5] == []


def test_it_prints_light_and_whole(browser, address):
    show(browser, address, dark=True)
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": dark})
    colour = "return getComputedStyle(document.body).{}"
    assert browser.execute_script(colour.format("backgroundColor")) == "rgb(255, 255, 255)"
    assert browser.execute_script(colour.format("color")) == "rgb(28, 28, 26)"
    recipe = browser.find_element("xpath", "//details[summary='Recipe']/pre")
    printed = "return arguments[0].checkVisibility()"
    assert browser.execute_script(printed, recipe), "it is printed though folded on the screen"
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    paper = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    assert base64.b64decode(paper["data"]).startswith(b"%PDF-")


def test_nothing_is_requested_and_nothing_complained_of(browser, address):
    browser.get_log("performance")
    browser.get_log("browser")
    show(browser, address)
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requested = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert address in requested
    assert [url for url in requested if url != address and not url.startswith("data:")] == []
    assert browser.get_log("browser") == []
    widths = browser.execute_script("return [...document.images].map(i => i.naturalWidth)")
    assert len(widths) == 12
    assert min(widths) > 0, "the page's own policy lets its images through"
