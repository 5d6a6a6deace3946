"""The page of radrep serve in a real browser: Debian's chromium, driven by selenium."""

import base64
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from radrep.guidance.editing import WrittenReport
from radrep.inference.films import Films
from radrep.inference.generator import ReportGenerator
from radrep.serving.reader import FilmReader
from tests.cli.test_context import patients, run
from tests.serving.test_app import serving
from tests.viz.html.test_page_browser import CONTRASTS, browser, show
from tests.whole_way import start_radrep

pytestmark = pytest.mark.slow
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")
__all__ = ["browser", "patients", "run"]  # the fixtures


@pytest.fixture(scope="module")
def address(trained_run: Path) -> Iterator[str]:
    with served(trained_run) as address:
        yield address


@pytest.fixture(scope="module")
def address_with_context(run: Path) -> Iterator[str]:
    with served(run) as address:
        yield address


@contextmanager
def served(checkpoint: Path, *words: str, host: str = "127.0.0.1") -> Iterator[str]:
    """The address that the command prints."""
    with socket.socket() as free:
        free.bind((host, 0))
        port = free.getsockname()[1]
    process = start_radrep("serve", checkpoint, "--port", str(port), *words)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(rf"http://{re.escape(host)}:{port}/\S*", line)
        assert found, line or process.communicate()[1]
        yield found[0]
    finally:
        process.terminate()
        process.communicate(timeout=60)


def wait(browser: Any, script: str, seconds: float = 60) -> Any:
    """What a script returns, once it returns something."""
    deadline = time.monotonic() + seconds
    while not (found := browser.execute_script(f"return {script}")):
        assert time.monotonic() < deadline, script
        time.sleep(0.1)
    return found


def give(browser: Any, study: str, *films: Path) -> None:
    wait(browser, "document.body.dataset.ready")
    chosen = browser.find_element("css selector", f"[data-study={study}] input[type=file]")
    chosen.send_keys("\n".join(str(film) for film in films))
    wait(browser, f"!document.querySelector('[data-study={study}] .copy').hidden")


# What a browser does with files that are dropped; whether the page keeps each event to itself.
DROP = """
const [place, films] = arguments, transfer = new DataTransfer();
for (const [name, data] of films)
  transfer.items.add(new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], name));
return ["dragenter", "dragover", "drop"].map(kind => !document.querySelector(place)
  .dispatchEvent(new DragEvent(kind, {dataTransfer: transfer, bubbles: true, cancelable: true})));
"""


def drop(browser: Any, place: str, *films: Path) -> list[bool]:
    wait(browser, "document.body.dataset.ready")
    sent = [(film.name, base64.b64encode(film.read_bytes()).decode()) for film in films]
    return browser.execute_script(DROP, place, sent)


CLIPBOARD = ("clipboardReadWrite", "clipboardSanitizedWrite")  # all others are refused


def let_copy(browser: Any, address: str) -> None:
    browser.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"origin": address.rstrip("/"), "permissions": list(CLIPBOARD)},
    )


def clipboard(browser: Any) -> str:
    return browser.execute_async_script(
        "const done = arguments[0]; navigator.clipboard.readText().then(done, e => done(`${e}`));"
    )


def text_of(browser: Any, selector: str) -> str:
    return browser.find_element("css selector", selector).text


def test_films_become_a_report_with_maps_and_sliders(
    browser: Any, address: str, films: list[Path]
) -> None:
    from selenium.webdriver import ActionChains

    show(browser, address)
    give(browser, "study", films[0])
    give(browser, "prior", films[1])
    assert text_of(browser, "[data-study=study] .report")
    assert text_of(browser, "[data-study=prior] .report")
    left, right = (
        browser.execute_script(
            f"return document.querySelector('[data-study={name}]').getBoundingClientRect().left"
        )
        for name in ("study", "prior")
    )
    assert left < right, "the prior stands beside the study"
    image = "document.querySelector('[data-study=study] .films img').src"
    plain = browser.execute_script(f"return {image}")
    sentence = browser.find_element("css selector", "[data-study=study] .report span")
    ActionChains(browser).move_to_element(sentence).perform()
    assert browser.execute_script(f"return {image}") != plain, "its map lies over the film"
    assert "attention of its words" in text_of(browser, "[data-study=study] .kind")
    title = browser.find_element("css selector", "h1")
    ActionChains(browser).move_to_element(title).perform()
    assert browser.execute_script(f"return {image}") == plain
    if folder := os.environ.get("RADREP_SHOTS"):
        browser.save_screenshot(str(Path(folder) / "serve-map.png"))
    before = text_of(browser, "[data-study=study] .report")
    browser.execute_script(
        "document.querySelector('details').open = true;"
        "for (const s of document.querySelectorAll('[data-study=study] .sliders input'))"
        " { s.value = 0; s.dispatchEvent(new Event('input')); }"
    )
    wait(browser, "document.querySelector('[data-study=study] .report .inserted')")
    assert text_of(browser, "[data-study=study] .report") != before
    errors = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert errors == []


def test_films_that_are_dropped_are_reported_and_the_report_is_copied(
    browser: Any, address: str, trained_run: Path, films: list[Path]
) -> None:
    show(browser, address)
    let_copy(browser, address)
    assert drop(browser, "h1", films[1])[1:] == [True, True], "beside the field nothing happens"
    assert text_of(browser, "[data-study=study] .status") == ""
    assert drop(browser, "[data-study=study] .drop", films[0]) == [True, True, True]
    assert not browser.find_elements("css selector", ".drop.over")
    wait(browser, "!document.querySelector('[data-study=study] .copy').hidden")
    report = text_of(browser, "[data-study=study] .report")
    assert report == ReportGenerator(trained_run).write(films[0]).text
    browser.find_element("css selector", "[data-study=study] .copy").click()
    wait(browser, "document.querySelector('[data-study=study] .status').textContent == 'Copied.'")
    assert clipboard(browser) == report


def test_the_whole_way_by_keyboard(browser: Any, address: str, films: list[Path]) -> None:
    from selenium.webdriver import ActionChains, Keys

    def press(key: str) -> Any:
        ActionChains(browser).send_keys(key).perform()
        return browser.switch_to.active_element

    show(browser, address)
    let_copy(browser, address)
    wait(browser, "document.body.dataset.ready")
    field = press(Keys.TAB)
    assert field.get_attribute("type") == "file", "the first stop"
    assert browser.execute_script(
        "return getComputedStyle(document.querySelector('.drop')).outlineStyle == 'solid'"
    )
    field.send_keys(str(films[2]))
    wait(browser, "!document.querySelector('[data-study=study] .copy').hidden")
    assert browser.switch_to.active_element == field, "the focus stays while the report is written"
    image = "return document.querySelector('[data-study=study] .films img').src"
    plain = browser.execute_script(image)
    spans = browser.find_elements("css selector", "[data-study=study] .report span")
    report = text_of(browser, "[data-study=study] .report")
    for span in spans:
        assert press(Keys.TAB) == span
        assert browser.execute_script(image) != plain, "its map lies over the film"
    assert press(Keys.TAB).text == "Copy as text"
    assert browser.execute_script(image) == plain
    press(Keys.ENTER)
    wait(browser, "document.querySelector('[data-study=study] .status').textContent == 'Copied.'")
    assert clipboard(browser) == report
    assert press(Keys.TAB).text == "Thresholds"
    press(Keys.ENTER)
    slider = press(Keys.TAB)
    name = slider.get_attribute("aria-label").removeprefix("Threshold of ")
    words = "document.querySelector('[data-study=study] .sliders span').textContent"
    stated = (
        "[...document.querySelectorAll('[data-study=study] .report span')]"
        f".some(s => s.title.startsWith('positive: ') && s.title.includes('{name}'))"
    )
    press(Keys.END)
    press(Keys.ARROW_LEFT)
    assert wait(browser, words).endswith("threshold 0.99")
    wait(browser, f"!{stated}")
    press(Keys.HOME)
    assert wait(browser, words).endswith("threshold 0.00")
    wait(browser, stated)
    assert browser.switch_to.active_element == slider, "the focus stays while sentences change"


def test_a_sentence_is_on_the_page_before_the_report_is_whole(
    browser: Any, trained_run: Path, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, seen, ended = FilmReader(trained_run), Event(), Event()
    explain = reader._generator.explain_films

    def write(films: Films, *, on_text: Callable[[str], None]) -> Any:
        on_text("no pneumothorax . the heart")
        assert seen.wait(60)
        ended.set()
        return explain(films)

    monkeypatch.setattr(reader._generator, "explain_films", write)
    with serving(reader) as address:
        show(browser, f"{address}/")
        wait(browser, "document.body.dataset.ready")
        chosen = browser.find_element("css selector", "[data-study=study] input[type=file]")
        chosen.send_keys(str(films[0]))
        first = "document.querySelector('[data-study=study] .report .negative')"
        assert wait(browser, f"{first} && {first}.textContent") == "no pneumothorax ."
        assert not ended.is_set()
        assert not browser.find_element("css selector", "[data-study=study] .copy").is_displayed()
        assert browser.find_element("css selector", "[data-study=study] .films img")
        seen.set()
        wait(browser, "!document.querySelector('[data-study=study] .copy').hidden")


def test_another_host_asks_for_the_token_that_the_command_prints(
    browser: Any, trained_run: Path, films: list[Path]
) -> None:
    host = socket.gethostname()
    with served(trained_run, "--host", host, host=host) as address:
        bare, _, token = address.partition("?token=")
        assert len(token) > 20
        assert httpx.get(bare).status_code == 401
        assert httpx.post(f"{bare}report", json={}).status_code == 401
        show(browser, bare)
        assert "Open the address with the token" in text_of(browser, "body")
        refused = [line["message"] for line in browser.get_log("browser")]
        assert any("status of 401" in message for message in refused)
        show(browser, address)
        wait(browser, "document.body.dataset.ready")
        assert browser.current_url == bare, "the token leaves the address line"
        give(browser, "study", films[0])
        report = text_of(browser, "[data-study=study] .report")
        browser.find_element("css selector", "[data-study=study] .copy").click()
        status = "document.querySelector('[data-study=study] .status').textContent"
        assert "press Ctrl-C" in wait(browser, f"{status}.includes('selected') && {status}")
        assert browser.execute_script("return getSelection().toString().trim()") == report
        complaints = [line["message"] for line in browser.get_log("browser")]
        # Browsers ignore this header without HTTPS, and say so.
        assert [text for text in complaints if "Cross-Origin-Opener-Policy" not in text] == []


def test_the_model_reads_the_prior_and_the_texts(
    browser: Any, address_with_context: str, films: list[Path]
) -> None:
    show(browser, address_with_context)
    give(browser, "study", films[0])
    assert "read beside" not in text_of(browser, "[data-study=study] .status")
    assert "which the model reads too" in text_of(browser, "[data-study=prior] h2")
    give(browser, "prior", films[1])
    status = "document.querySelector('[data-study=study] .status').textContent"
    wait(browser, f"{status}.includes('read beside the films: films of the prior study.')")
    browser.find_element("css selector", "[data-kind=indication]").send_keys("Chest pain.")
    browser.find_element("css selector", "h1").click()  # the field loses the focus
    wait(browser, f"{status}.includes('films: indication, films of the prior study.')")
    if folder := os.environ.get("RADREP_SHOTS"):
        browser.save_screenshot(str(Path(folder) / "serve-context.png"))
    errors = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert errors == []


def test_equal_sentences_show_their_own_maps(
    browser: Any, trained_run: Path, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from selenium.webdriver import ActionChains

    reader = FilmReader(trained_run)
    sentence, other = "no pneumothorax .", "the heart is normal ."
    text = " ".join((sentence, other, sentence))
    attention = np.zeros((len(text.split()), 1, 2, 2))
    attention[:3, 0, 0, 0] = 1.0  # of the first sentence
    attention[3:, 0, 1, 1] = 1.0  # of the others
    monkeypatch.setattr(
        reader._generator, "_explain", lambda *_: [(WrittenReport(text), attention)]
    )
    with serving(reader) as address:
        show(browser, f"{address}/")
        give(browser, "study", films[0])
        spans = browser.find_elements("css selector", "[data-study=study] .report span")
        assert [span.text for span in spans] == [sentence, other, sentence]
        shown = []
        for span in spans:
            ActionChains(browser).move_to_element(span).perform()
            image = "document.querySelector('[data-study=study] .films img').src"
            shown.append(browser.execute_script(f"return {image}"))
    assert shown[0] != shown[2]
    assert shown[1] == shown[2]


def test_a_file_that_is_no_film_is_named(browser: Any, address: str, tmp_path: Path) -> None:
    show(browser, address)
    wait(browser, "document.body.dataset.ready")
    other = tmp_path / "<img src=x onerror=alert(1)>.txt"
    other.write_text("no film")
    browser.find_element("css selector", "input[type=file]").send_keys(str(other))
    wait(browser, "document.querySelector('.status.error')")
    assert "<img src=x onerror=alert(1)>.txt" in text_of(browser, ".status.error")


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_and_can_be_read(
    width: int, dark: bool, browser: Any, address: str, films: list[Path]
) -> None:
    show(browser, address, width=width, dark=dark)
    give(browser, "study", films[0])
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert [found for found in browser.execute_script(CONTRASTS) if found[0] < 4.5] == []
    if folder := os.environ.get("RADREP_SHOTS"):
        name = f"serve-{width}-{'dark' if dark else 'light'}.png"
        browser.save_screenshot(str(Path(folder) / name))
