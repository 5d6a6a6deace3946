"""The page of radrep serve in a real browser: Debian's chromium, driven by selenium."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from radrep.guidance.editing import WrittenReport
from radrep.serving.reader import FilmReader
from tests.cli.test_context import patients, run
from tests.serving.test_app import serving
from tests.viz.html.test_page_browser import CONTRASTS, browser, show
from tests.whole_way import start_radrep

pytestmark = pytest.mark.slow
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
__all__ = ["browser", "patients", "run"]  # the fixtures


@pytest.fixture(scope="module")
def address(trained_run: Path) -> Iterator[str]:
    yield from served(trained_run)


@pytest.fixture(scope="module")
def address_with_context(run: Path) -> Iterator[str]:
    yield from served(run)


def served(checkpoint: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start_radrep("serve", checkpoint, "--port", str(port))
    try:
        assert process.stdout is not None
        assert f"http://127.0.0.1:{port}/" in process.stdout.readline()
        yield f"http://127.0.0.1:{port}/"
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


def text_of(browser: Any, selector: str) -> str:
    return browser.find_element("css selector", selector).text


def test_films_become_a_report_with_maps_and_sliders(
    browser: Any, address: str, films: list[Path]
) -> None:
    from selenium.webdriver import ActionChains, Keys

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
    title.click()  # the window has the focus
    browser.execute_script("document.querySelector('input[type=file]').focus()")
    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert browser.switch_to.active_element == sentence, "the first sentence follows the files"
    assert browser.execute_script(f"return {image}") != plain, "as under the mouse"
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
