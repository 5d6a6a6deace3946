"""What damage, kills and strangers leave in a folder of reports, and what the next command does."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from radrep.data.manifest import hash_file
from radrep.inference.generator import ReportGenerator
from radrep.preparation.sources.phantom.source import draw_study
from radrep.reporting.parts import report_folder
from tests.reporting.mixed_films import ROOT_UID, contents, draw_films, rows_of
from tests.whole_way import radrep


@pytest.mark.parametrize("damage", ["cut", "remove", "no done-file", "partial"])
def test_a_damaged_part_is_written_again(damage: str, trained_run: Path, tmp_path: Path) -> None:
    films, out = draw_films(tmp_path / "films", 3), tmp_path / "reports"
    words = ("generate", films, "--checkpoint", trained_run, "--out", out)
    radrep(*words)
    record = json.loads((out / "generated.json").read_text()) | {"finished": False}
    (out / "generated.json").write_text(json.dumps(record))
    before = contents(out)
    (part,) = out.glob("part-*.jsonl")
    if damage == "cut":
        part.write_bytes(part.read_bytes()[:-9])
    elif damage == "remove":
        part.with_suffix(".parquet").unlink()
    elif damage == "no done-file":
        part.with_suffix(".done.json").unlink()
    else:
        part.with_name(f".{part.name}.1.partial").write_text("{")
    assert radrep(*words).exit_code == 0
    assert contents(out).keys() == before.keys()
    assert all(contents(out)[n] == before[n] for n in before if n != "generated.json")


def test_what_could_not_be_read_is_tried_again(trained_run: Path, tmp_path: Path) -> None:
    """The disk failed once: size and time of the file are as before."""
    films, out = draw_films(tmp_path / "films", 3), tmp_path / "reports"
    words = ("generate", films, "--checkpoint", trained_run, "--out", out)
    film = films / "film0001.jpg"
    content, stat = film.read_bytes(), film.stat()

    def write(new: bytes) -> None:
        film.write_bytes(new)
        os.utime(film, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    write(bytes(len(content)))
    assert radrep(*words).exit_code == 2
    assert film.name not in rows_of(out)
    failed = contents(out)
    again = radrep(*words)
    assert again.exit_code == 2
    assert "3 of 3 studies are done already" in again.stderr
    assert {n for n, c in contents(out).items() if failed[n] != c} <= {"generated.json"}
    write(content)
    healed = radrep(*words)
    assert healed.exit_code == 0, healed.output
    assert "2 of 3 studies are done already" in healed.stderr
    assert rows_of(out)[film.name]["report"] == ReportGenerator(trained_run).write(film).text
    assert (out / "left_out.jsonl").read_text() == ""


def test_what_a_kill_left_of_a_part_is_removed(trained_run: Path, tmp_path: Path) -> None:
    """Its done-file is not there, and meanwhile another film has changed what parts there are."""
    films, out = draw_films(tmp_path / "films", 3), tmp_path / "reports"
    words = ("generate", films, "--checkpoint", trained_run, "--out", out, "--format", "fhir")
    pytest.importorskip("fhir.resources", reason="fhir.resources is not installed: radrep[fhir]")
    assert radrep(*words).exit_code == 0
    next(out.glob("*.done.json")).unlink()
    gone = films / "film0001.jpg"
    gone.unlink()
    Image.fromarray(draw_study(7, 51, 64)).save(films / "film0099.png")
    assert radrep(*words).exit_code == 0
    assert rows_of(out).keys() == {"film0000.png", f"{ROOT_UID}.3", "film0099.png"}
    (done,) = out.glob("*.done.json")
    record = json.loads(done.read_text())
    assert contents(out).keys() == {
        *record["files"], done.name, "generated.json", "left_out.jsonl"
    }  # fmt: skip
    assert len([*(out / "fhir").iterdir()]) == 3


def test_a_damaged_part_stays_where_it_is_the_last_of_a_study(
    trained_run: Path, tmp_path: Path
) -> None:
    films, out = draw_films(tmp_path / "films", 3), tmp_path / "reports"
    words = ("generate", films, "--checkpoint", trained_run, "--out", out)
    assert radrep(*words).exit_code == 0
    (part,) = out.glob("part-*.jsonl")
    part.write_bytes(part.read_bytes()[:-9])
    before = part.read_bytes()
    film = films / "film0001.jpg"
    hidden = film.rename(tmp_path / film.name)
    assert radrep(*words).exit_code == 0
    assert part.read_bytes() == before
    hidden.rename(film)
    assert radrep(*words).exit_code == 0
    assert not part.is_file()
    assert len(rows_of(out)) == 3


def test_a_folder_that_a_kill_left_before_its_record_is_gone_on_with(
    trained_run: Path, film_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "reports"
    out.mkdir()
    (out / ".generated.json.123.partial").touch()
    result = radrep("generate", film_folder, "--checkpoint", trained_run, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert len(rows_of(out)) == 2
    assert not list(out.glob(".*.partial"))


@pytest.mark.parametrize("place", ["../mine.txt", "ABSOLUTE"])
@pytest.mark.parametrize("kind", ["files", "documents", "name"])
def test_a_strangers_part_reaches_no_file_elsewhere(kind: str, place: str, tmp_path: Path) -> None:
    mine, out = tmp_path / "mine.txt", tmp_path / "reports"
    mine.write_text("mine")
    name = str(mine) if place == "ABSOLUTE" else place
    given = {
        "files": {"files": {name: hash_file(mine)}},
        "documents": {"documents": {"s": [name]}},
        "name": {"name": name},
    }[kind]
    part = {"name": "part-0", "studies": {"s": "1"}, "files": {}, "documents": {}}
    row = part | {"unread": [], "left_out": [], "notes": []} | given
    out.mkdir()
    (out / "part-0.done.json").write_text(json.dumps(row))
    (out / "part-1.done.json").write_text(json.dumps(row | part | {"name": "part-1"}))
    settings = {"seed": 0}
    (out / "generated.json").write_text(json.dumps({"settings": settings, "began": "now"}))
    with report_folder(out, settings) as reports:
        assert [each.name for each in reports.parts] == ["part-1"]
