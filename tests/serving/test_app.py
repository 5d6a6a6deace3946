"""radrep serve: whom it answers, what it bounds, and what it says of films."""

import base64
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from radrep.guidance.editing import WrittenReport
from radrep.inference.films import Films
from radrep.inference.generator import ReportGenerator
from radrep.sections import MARKER
from tests.whole_way import radrep

pytest.importorskip("starlette")
pytest.importorskip("httpx")

import httpx
from starlette.testclient import TestClient

from radrep.errors import RadrepError
from radrep.serving import app as module
from radrep.serving import reader as reader_module
from radrep.serving.app import HEADERS, make_app
from radrep.serving.reader import FilmReader, describe_sentence
from radrep.serving.run import choose_place

HOST = "127.0.0.1:8008"


@pytest.fixture(scope="module")
def reader(trained_run: Path) -> FilmReader:
    return FilmReader(trained_run)


def client(reader: FilmReader, token: str | None = None) -> TestClient:
    application = make_app(reader, frozenset([HOST]), token)
    return TestClient(application, base_url=f"http://{HOST}", follow_redirects=False)


@contextmanager
def serving(reader: FilmReader) -> Iterator[str]:
    """The address of a server in a thread."""
    uvicorn = pytest.importorskip("uvicorn")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        host = "{}:{}".format(*listening.getsockname())
        config = uvicorn.Config(make_app(reader, frozenset([host])), log_level="warning")
        server = uvicorn.Server(config)
        thread = Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://{host}"
        finally:
            server.should_exit = True
            thread.join(30)


def as_film(path: Path) -> dict[str, str]:
    return {"name": path.name, "data": base64.b64encode(path.read_bytes()).decode()}


def rows_of(answer: Any) -> list[dict[str, Any]]:
    """What /report sends, line by line."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def test_the_page_and_its_headers(reader: FilmReader) -> None:
    for path, kind in (
        ("/", "text/html"),
        ("/page.js", "text/javascript"),
        ("/page.css", "text/css"),
    ):
        answer = client(reader).get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "'unsafe" not in HEADERS["Content-Security-Policy"]
    assert client(reader).get("/../reader.py").status_code == 404


def test_a_report_is_that_of_the_command(
    reader: FilmReader, trained_run: Path, films: list[Path]
) -> None:
    answer = client(reader).post("/report", json={"films": [as_film(films[0])]})
    found = rows_of(answer)[-1]["report"]
    written = ReportGenerator(trained_run, predict=True).write(films[0])
    assert found["text"] == written.text
    assert found["made"] == written.made
    assert " ".join(s["text"] for s in found["sentences"]) == " ".join(written.text.split())
    assert len(found["films"]) == 1
    for sentence in found["sentences"]:
        assert [m.partition(",")[0] for m in sentence["maps"]] == ["data:image/png;base64"]
        assert sentence["kind"] == "attention of its words"
    assert found["probabilities"]
    assert answer.headers["cache-control"] == "no-store"


SENTENCES = ("the heart is normal .", "no pleural effusion .", "no pneumothorax .")


def test_sentences_are_sent_while_the_report_is_decoded(
    reader: FilmReader, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = reader._generator
    longer = made._decode.model_copy(update={"max_new_tokens": 60})
    monkeypatch.setattr(made, "_decode", longer)
    words = made.loaded.codec.encode(" ".join(SENTENCES), 60)[1:]
    decoder, sent, waited = made._model.encoder_decoder, Event(), []
    step = decoder.step

    def dictate(tokens: Tensor, state: Any) -> Any:
        """Have the model write the sentences, the last one when the first was sent."""
        log_probs, state = step(tokens, state)
        if len(waited) == len(words) - 3:
            assert sent.wait(20)
        waited.append(sent.is_set())
        dictated = torch.full_like(log_probs, float("-inf"))
        dictated[:, words[len(waited) - 1]] = 0.0
        return dictated, state

    monkeypatch.setattr(decoder, "step", dictate)
    rows = reader.stream(*reader.read([(films[0].name, films[0].read_bytes())], {}, ()))
    assert len(next(rows)["films"]) == 1
    assert next(rows)["sentence"]["text"] == SENTENCES[0]
    assert len(waited) < len(words)
    sent.set()
    second, report = rows
    assert second["sentence"] == describe_sentence(SENTENCES[1]) | {"origin": "generated"}
    assert tuple(each["text"] for each in report["report"]["sentences"]) == SENTENCES


def test_a_sentence_is_sent_before_the_report_over_http(
    reader: FilmReader, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived, explain = Event(), reader._generator.explain_films

    def wait(films: Films, *, on_text: Callable[[str], None]) -> Any:
        on_text("no pneumothorax . the heart")
        assert arrived.wait(20)
        return explain(films)

    monkeypatch.setattr(reader._generator, "explain_films", wait)
    sent = {"films": [as_film(films[0])]}
    with (
        serving(reader) as address,
        httpx.stream("POST", f"{address}/report", json=sent, timeout=60) as answer,
    ):
        rows = map(json.loads, answer.iter_lines())
        assert [*next(rows)] == ["films"]
        assert next(rows)["sentence"]["text"] == "no pneumothorax ."
        arrived.set()
        assert [[*row] for row in rows] == [["report"]]


def test_a_report_ends_where_nobody_reads_it(
    reader: FilmReader, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, drafts = Event(), list[str]()

    def write(films: Films, *, on_text: Callable[[str], None]) -> Any:
        for _ in range(400):  # 20 seconds
            drafts.append("no pneumothorax . the heart")
            begun.set()
            on_text(drafts[-1])
            time.sleep(0.05)

    monkeypatch.setattr(reader._generator, "explain_films", write)
    sent = {"films": [as_film(films[0])]}
    with serving(reader) as address:
        with httpx.stream("POST", f"{address}/report", json=sent, timeout=60) as answer:
            lines = answer.iter_lines()  # held: the answer closes with it
            assert [*json.loads(next(lines))] == ["films"]
            assert begun.wait(20)
        left = time.monotonic()
        while reader._lock.locked():
            assert time.monotonic() < left + 15
            time.sleep(0.01)
        assert len(drafts) < 390
        monkeypatch.undo()
        answered = httpx.post(f"{address}/report", json=sent, timeout=60)
        assert [*rows_of(answered)[-1]] == ["report"]


def test_a_report_whose_reader_left_before_its_turn_is_not_begun(
    reader: FilmReader, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object, **__: object) -> None:
        raise AssertionError("begun")

    monkeypatch.setattr(reader._generator, "explain_films", write)
    gone = Event()
    gone.set()
    given, notes = reader.read([(films[0].name, films[0].read_bytes())], {}, [])
    assert [[*row] for row in reader.stream(given, notes, gone)] == [["films"]]


def test_a_report_of_beams_has_its_sentences_together(
    reader: FilmReader, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    beams = reader._generator._decode.model_copy(update={"method": "beam", "beam_size": 2})
    monkeypatch.setattr(reader._generator, "_decode", beams)
    rows = rows_of(client(reader).post("/report", json={"films": [as_film(films[0])]}))
    assert [[*row] for row in rows] == [["films"], ["report"]]


def test_what_goes_wrong_in_writing_ends_the_answer(
    reader: FilmReader, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RadrepError("no memory left")

    monkeypatch.setattr(reader._generator, "explain_films", fail)
    rows = rows_of(client(reader).post("/report", json={"films": [as_film(films[0])]}))
    assert rows[-1] == {"error": "no memory left"}


_opened: list[tuple[object, ...]] | None = None  # files opened to be written, while recorded


def _record(event: str, arguments: tuple[object, ...]) -> None:
    if _opened is not None and event == "open":
        path, mode, flags = arguments
        writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND
        if (isinstance(mode, str) and set(mode) & set("wax+")) or int(str(flags)) & writes:
            _opened.append((path, mode, flags))


def test_nothing_is_written_to_a_disk(
    reader: FilmReader, films: list[Path], tmp_path: Path
) -> None:
    global _opened
    sys.addaudithook(_record)  # which cannot be removed
    large = tmp_path / "large.png"
    noise = np.random.default_rng(0).integers(0, 255, (1500, 1500), dtype=np.uint8)
    Image.fromarray(noise).save(large)  # a server that spools large uploads would spool it
    sent = {"films": [as_film(films[0]), as_film(large)]}
    asked = client(reader)
    asked.get("/about")
    _opened = []
    try:
        (tmp_path / "seen").write_text("the recorder works")
        answer = asked.post("/report", json=sent)
    finally:
        written, _opened = _opened, None
    assert "more views than the model takes" in rows_of(answer)[-1]["report"]["notes"][0]
    assert [Path(str(path)).name for path, *_ in written] == ["seen"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example:8008"}, 421),
        ({"host": "127.0.0.1"}, 421),
        ({"host": "localhost.evil.example:8008"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:9000"}, 403),
        ({"origin": f"http://{HOST}"}, 200),
    ],
)
def test_other_names_and_pages_are_refused(
    headers: dict[str, str], status: int, reader: FilmReader
) -> None:
    assert client(reader).get("/about", headers=headers).status_code == status
    if status != 200:
        sent = client(reader).post("/report", json={"films": []}, headers=headers)
        assert sent.status_code == status


def test_a_token_is_asked_for_and_leaves_the_address(reader: FilmReader) -> None:
    asked = client(reader, token="secret")
    for path in ("/", "/about", "/page.js", "/?token=wrong"):
        assert asked.get(path).status_code == 401
    assert asked.post("/report", json={}).status_code == 401
    opened = asked.get("/?token=secret")
    assert (opened.status_code, opened.headers["location"]) == (303, "/")
    cookie = opened.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert asked.get("/about").status_code == 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "1 to 8 films"),
        ({"films": []}, "1 to 8 films"),
        ({"films": [{"name": "a", "data": ""}] * 9}, "1 to 8 films"),
        ({"films": ["a"]}, "name and data"),
        ({"films": [{"name": "a", "data": "%"}]}, "no base64"),
        ({"films": [{"name": "a.png", "data": "AAAA"}]}, "a.png"),
        ([], "JSON object"),
        ({"films": ["FILM"], "context": ["Cough."]}, "context must be texts"),
        ({"films": ["FILM"], "context": {"indication": "x" * 20_001}}, "at most 20,000"),
        ({"films": ["FILM"], "context": {"indication": "Cough."}}, "does not read indication"),
        ({"films": ["FILM"], "prior": ["FILM"]}, "does not read prior_image"),
    ],
)
def test_what_is_no_study_for_the_model_is_refused(
    body: Any, words: str, reader: FilmReader, films: list[Path]
) -> None:
    for name, value in body.items() if isinstance(body, dict) else ():
        if value == ["FILM"]:
            body = body | {name: [as_film(films[0])]}
    answer = client(reader).post("/report", json=body)
    assert answer.status_code == 422
    assert words in answer.json()["error"]


def test_what_is_sent_is_bounded(reader: FilmReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BODY", 1000)
    large = {"films": [{"name": "a", "data": "A" * 2000}]}
    assert client(reader).post("/report", json=large).status_code == 413
    lying = client(reader).post(
        "/report",
        content=json.dumps(large),
        headers={"content-type": "application/json", "content-length": "10"},
    )
    assert lying.status_code in (400, 413, 422)
    form = client(reader).post("/report", files={"film": b"x"})
    assert form.status_code == 415
    nested = b"[" * 900
    sent = client(reader).post(
        "/report", content=nested, headers={"content-type": "application/json"}
    )
    assert sent.status_code == 422


def test_a_draft_is_edited_by_thresholds(reader: FilmReader) -> None:
    text = "the heart is normal . no pleural effusion ."
    body = {"text": text, "probabilities": {"Pleural Effusion": 0.6}, "thresholds": {}}
    same = client(reader).post("/edit", json=body).json()["sentences"]
    assert " ".join(sentence["text"] for sentence in same) == text
    body["thresholds"] = {"Pleural Effusion": 0.5}
    changed = client(reader).post("/edit", json=body)
    assert changed.status_code == 200, changed.text
    sentences = changed.json()["sentences"]
    inserted = [s for s in sentences if s["origin"] == "inserted"]
    assert [s["observations"] for s in inserted] == [["Pleural Effusion"]]
    assert "no pleural effusion ." not in [s["text"] for s in sentences]
    unknown = {"probabilities": {"Grippe": 0.5}, "thresholds": {"Grippe": 0.4}}
    answer = client(reader).post("/edit", json=body | unknown)
    assert answer.status_code == 422
    assert "'Grippe' is no finding" in answer.json()["error"]
    for wrong in ({"thresholds": {"Edema": 2}}, {"text": "x" * 30_000}, {"probabilities": []}):
        assert client(reader).post("/edit", json=body | wrong).status_code == 422


def test_sentences_are_coloured_by_what_they_find() -> None:
    assert describe_sentence("There is a large left pleural effusion.")["state"] == "positive"
    assert describe_sentence("No pneumothorax.")["state"] == "negative"
    assert describe_sentence("Possible edema.")["state"] == "uncertain"
    assert describe_sentence("Two views.")["state"] == ""


def test_each_sentence_has_the_maps_of_its_own_words(
    reader: FilmReader, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "_png", lambda pixels: float(pixels.mean()))
    monkeypatch.setattr(reader_module, "outlined_overlay", lambda _, own: own)
    given = reader.read([(films[0].name, films[0].read_bytes())], {}, ())
    for text, words in (
        (f"a b . {MARKER} c .", [(0, 1, 2), (4, 5)]),
        (f"{MARKER} c .", [(1, 2)]),
        ("a b . c .", [(0, 1, 2), (3, 4)]),
        ("a b . a b . c .", [(0, 1, 2), (3, 4, 5), (6, 7)]),
        (f"a . {MARKER} c . {MARKER} {MARKER} d .", [(0, 1), (3, 4), (7, 8)]),
        ("", []),
    ):
        attention = np.arange(max(1, len(text.split())), dtype=float)[:, None, None, None]
        written = [(WrittenReport(text), attention)]
        monkeypatch.setattr(reader._generator, "_explain", lambda *_, made=written: made)
        *_, last = reader.stream(*given)
        shown = [each["maps"] for each in last["report"]["sentences"]]
        assert shown == [[np.mean(own)] for own in words]


def test_places_and_tokens() -> None:
    own = choose_place("127.0.0.1", 8008)
    assert own.token is None
    assert own.hosts == {"127.0.0.1:8008", "localhost:8008", "[::1]:8008"}
    other = choose_place("192.168.1.5", 80)
    assert other.token
    assert other.hosts == {"192.168.1.5:80", "192.168.1.5"}  # browsers leave port 80 out
    assert other.address == f"http://192.168.1.5:80/?token={other.token}"
    assert choose_place("192.168.1.5", 80).token != other.token
    assert choose_place("::1", 80).address == "http://[::1]:80/"
    with pytest.raises(RadrepError, match="every address"):
        choose_place("0.0.0.0", 80)
    refused = radrep("serve", "nothing", "--host", "0.0.0.0")
    assert refused.exit_code == 2
