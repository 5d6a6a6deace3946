"""radrep generate FOLDER --out: whatever stops it, the same command makes the same bytes."""

import json
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from PIL import Image

from radrep.inference.generator import ReportGenerator
from radrep.preparation.sources.phantom.source import draw_study
from radrep.reporting import write_folder as module
from radrep.reporting.parts import write_part
from tests.data.dicom.drawing import DEEP, draw
from tests.reporting.mixed_films import (
    BROKEN,
    ROOT_UID,
    add_broken,
    contents,
    draw_films,
    rows_of,
    write_again,
    write_film,
)
from tests.whole_way import radrep


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 films of 33 studies, and four files that are none."""
    films = draw_films(tmp_path_factory.mktemp("mixed") / "films", 33)
    add_broken(films)
    return films


def test_a_folder_of_mixed_films_becomes_reports(
    mixed: Path, trained_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "reports"
    words = ("generate", mixed, "--checkpoint", trained_run, "--out", out)
    result = radrep(*words)
    assert result.exit_code == 2
    assert result.stdout == f"{out} has the reports of 33 of 37 studies.\n"
    assert "11 by StudyInstanceUID" in result.stderr
    rows = rows_of(out)
    parquet = [
        row
        for path in out.glob("part-*.parquet")
        for row in pyarrow.parquet.read_table(path).to_pylist()
    ]
    assert {row["study"]: row for row in parquet} == rows
    generator = ReportGenerator(trained_run)
    for study in ("film0000.png", "film0001.jpg"):
        assert rows[study]["report"] == generator.write(mixed / study).text
        assert rows[study]["images"] == [study]
    pair = rows[f"{ROOT_UID}.6"]
    assert (pair["images"], pair["unused"]) == (["film0005.dcm"], ["film0005b.dcm"])
    assert pair["report"] == generator.write(mixed / "film0005.dcm").text
    assert pair["projections"] == ["frontal"]
    assert {row["model"] for row in rows.values()} == {generator.fingerprint}
    left_out = [json.loads(line) for line in (out / "left_out.jsonl").read_text().splitlines()]
    assert sorted(row["image"] for row in left_out) == sorted(BROKEN)
    for row in left_out:
        assert row["reason"] in result.stderr.replace("\n  ", " ")
    before = contents(out)
    again = radrep(*words)
    assert again.exit_code == 2
    assert "37 of 37 studies are done already" in again.stderr
    changed = {name for name, content in contents(out).items() if before[name] != content}
    assert changed <= {"generated.json"}, "which has the time of the second command"


def test_a_stopped_command_goes_on_and_makes_the_same_bytes(
    mixed: Path, trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "reports"
    words = ("generate", mixed, "--checkpoint", trained_run)
    written = []

    def stop_at_second(out: Path, part: Any) -> Any:
        written.append(part)
        if len(written) == 2:
            raise KeyboardInterrupt
        return write_part(out, part)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_part", stop_at_second)
        stopped = radrep(*words, "--out", out)
    assert stopped.exit_code == 130
    assert "keeps what is done, and the same command resumes from it" in stopped.stderr
    done = rows_of(out)
    assert 0 < len(done) < 33
    began = json.loads((out / "generated.json").read_text())["began"]
    time.sleep(1.1)  # times are in whole seconds
    result = radrep(*words, "--out", out)
    assert " of 37 studies are done already" in result.stderr
    assert {row["time"] for row in rows_of(out).values()} == {began}
    write_again(out, tmp_path / "at once", *words)
    assert contents(out) == contents(tmp_path / "at once")


def test_new_and_changed_films_are_reported_and_gone_ones_keep_their_reports(
    trained_run: Path, tmp_path: Path
) -> None:
    films, out = draw_films(tmp_path / "films", 6), tmp_path / "reports"
    words = ("generate", films, "--checkpoint", trained_run, "--out", out)
    assert radrep(*words).exit_code == 0
    first = rows_of(out)
    (films / "film0000.png").unlink()
    Image.fromarray(draw_study(7, 50, 64)).save(films / "film0001.jpg")
    Image.fromarray(draw_study(7, 51, 64)).save(films / "film0099.png")
    second_view = films / "film0002b.dcm"  # of a study that had one
    write_film(second_view, draw_study(7, 52, 64), study=2)
    result = radrep(*words)
    assert result.exit_code == 0, result.output
    rows = rows_of(out)
    assert rows.keys() == first.keys() | {"film0099.png"}
    assert rows[f"{ROOT_UID}.3"]["unused"] == [second_view.name]
    kept = {"film0000.png", "film0003.png", "film0004.jpg", f"{ROOT_UID}.6"}
    assert {id_: rows[id_] for id_ in kept} == {id_: first[id_] for id_ in kept}
    generator = ReportGenerator(trained_run)
    assert rows["film0001.jpg"]["report"] == generator.write(films / "film0001.jpg").text
    assert len([*out.glob("*.done.json")]) == len([*out.glob("part-*.jsonl")]) == 2


def test_breaks_of_lines_in_a_report_break_no_row(tmp_path: Path) -> None:
    from radrep.reporting.parts import Part, drop_studies, row_schema

    blank = dict.fromkeys(row_schema().names)
    rows = [blank | {"study": s, "report": "One.\u2028Two.\x85\x1cThree."} for s in "ab"]
    done = write_part(tmp_path, Part("part-1", {"a": "1", "b": "2"}, rows))
    drop_studies(tmp_path, done, ["a"], {})
    assert rows_of(tmp_path) == {"b": rows[1]}


def test_a_file_of_reports_is_hashed_once(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from radrep.reporting import parts

    films, out = draw_films(tmp_path / "films", 2), tmp_path / "reports"
    words = ("generate", films, "--checkpoint", trained_run, "--out", out)
    hashed: list[Path] = []
    hash_file = parts.hash_file
    monkeypatch.setattr(parts, "hash_file", lambda path: hashed.append(path) or hash_file(path))
    for _ in range(2):
        assert radrep(*words).exit_code == 0
        assert sorted(p.suffix for p in hashed) == [".jsonl", ".parquet"]
        hashed.clear()


@pytest.mark.parametrize("per_worker", [16, 256])
def test_a_prepared_folder_gives_the_reports_of_its_evaluation(
    per_worker: int,
    trained_run: Path,
    phantoms: Path,
    films: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_PREPARED_PER_WORKER", per_worker)
    out = tmp_path / "reports"
    result = radrep("generate", phantoms, "--checkpoint", trained_run, "--out", out)
    assert result.exit_code == 0, result.output
    assert "48 prepared: 32 train, 8 val, 8 test" in result.stderr
    rows = rows_of(out)
    assert len(rows) == 48
    generator = ReportGenerator(trained_run)
    for film in films[:2]:
        assert rows[film.stem]["report"] == generator.write(film).text


def test_reports_lie_among_the_films_and_are_not_taken_for_films(
    trained_run: Path, tmp_path: Path
) -> None:
    films = draw_films(tmp_path / "films", 3)
    words = ("generate", films, "--checkpoint", trained_run, "--out", films / "reports")
    assert radrep(*words).exit_code == 0
    again = radrep(*words)
    assert again.exit_code == 0
    assert "files are no images" not in again.stderr
    assert "1 folders that radrep wrote are not read" in again.stderr
    assert "3 of 3 studies are done already" in again.stderr


def test_files_with_out_are_studies_by_uid(trained_run: Path, tmp_path: Path) -> None:
    films, out = draw_films(tmp_path / "films", 6), tmp_path / "reports"
    given = [films / name for name in ("film0000.png", "film0005.dcm", "film0005b.dcm")]
    assert radrep("generate", *given, "--checkpoint", trained_run, "--out", out).exit_code == 0
    assert rows_of(out).keys() == {str(given[0]), f"{ROOT_UID}.6"}
    single = ("--single-study", "--out", tmp_path / "single")
    assert radrep("generate", *given, "--checkpoint", trained_run, *single).exit_code == 0
    (row,) = rows_of(tmp_path / "single").values()
    assert (row["images"], row["unused"]) == ([str(given[0])], [*map(str, given[1:])])


def test_sampled_reports_are_those_of_the_film_alone(trained_run: Path, tmp_path: Path) -> None:
    films, out = draw_films(tmp_path / "films", 2), tmp_path / "reports"
    sample = ("--checkpoint", trained_run, "--method", "sample", "--seed", 3)
    assert radrep("generate", films, *sample, "--out", out).exit_code == 0
    alone = radrep("generate", films / "film0001.jpg", *sample)
    assert rows_of(out)["film0001.jpg"]["report"] == alone.stdout.strip()


def test_what_does_not_go_together_is_refused(
    trained_run: Path, film_folder: Path, tmp_path: Path
) -> None:
    film = film_folder / "film0000.png"
    out = ("--out", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").touch()
    for words, told in [
        ((film_folder,), "is a folder; give an image file, or add --out DIR"),
        ((film_folder, film, *out), "give one folder, or files alone"),
        ((film_folder, "--single-study", *out), "--single-study are for files"),
        ((film, "--group", "folder", *out), "--group are for a folder"),
        ((film_folder, "--group", "uid", *out), "must be auto, folder or file, got 'uid'"),
        ((film, *out, "--heatmap", tmp_path / "map.png"), "leave --out out"),
        ((film, "--out", tmp_path / "full"), "is not empty and holds no reports"),
        ((film, "--out", film), "is a file"),
    ]:
        result = radrep("generate", *words, "--checkpoint", trained_run)
        assert result.exit_code == 2, words
        assert told in result.stderr.replace("\n", " "), result.stderr


def test_reports_of_another_model_or_place_are_not_mixed(
    trained_run: Path, film_folder: Path, phantoms: Path, tmp_path: Path
) -> None:
    out = tmp_path / "reports"
    words = ("--checkpoint", trained_run, "--out", out)
    assert radrep("generate", film_folder, *words).exit_code == 0
    before = contents(out)
    for more, told in [
        ((film_folder, "--method", "beam"), "decode.method greedy, now beam"),
        ((film_folder, "--seed", 5), "seed 0, now 5"),
        ((phantoms,), f"images {film_folder}, now {phantoms}"),
    ]:
        result = radrep("generate", *more, *words)
        assert result.exit_code == 2
        assert told in result.stderr.replace("\n", " ")
        assert contents(out) == before


def test_images_prepared_at_another_size_are_refused(trained_run: Path, tmp_path: Path) -> None:
    from radrep.preparation.pipeline import prepare
    from radrep.preparation.sources.phantom.source import PhantomSource

    prepare(PhantomSource(3, image_size=96), tmp_path / "data", image_size=96, workers=1)
    out = ("--checkpoint", trained_run, "--out", tmp_path / "reports")
    result = radrep("generate", tmp_path / "data", *out)
    assert result.exit_code == 2
    assert "has images of 96 pixels and the model was trained on 64" in result.stderr


def test_two_commands_do_not_write_one_folder(
    trained_run: Path, film_folder: Path, tmp_path: Path
) -> None:
    from filelock import FileLock

    (tmp_path / "reports").mkdir()
    with FileLock(tmp_path / "reports/.lock"):
        words = ("--checkpoint", trained_run, "--out", tmp_path / "reports")
        result = radrep("generate", film_folder, *words)
    assert result.exit_code == 2
    assert "is being written by another radrep generate" in result.stderr


def test_what_was_chosen_in_reading_is_a_warning(trained_run: Path, tmp_path: Path) -> None:
    films, out = tmp_path / "films", tmp_path / "reports"
    films.mkdir()
    window = {"WindowCenter": "9000", "WindowWidth": "100"}
    (films / "a.dcm").write_bytes(draw(DEEP, elements=window))
    result = radrep("generate", films, "--checkpoint", trained_run, "--out", out)
    assert result.exit_code == 0, result.output
    assert "a.dcm: its window leaves no picture and is not used" in result.stderr
