"""radrep generate, and the same from Python."""

import json
import os
import re
import shutil
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from radrep.data.batch import Batch
from radrep.inference.films import StudyFiles
from radrep.inference.generator import ReportGenerator
from radrep.models.csr_lmca import CsrLmca
from radrep.models.encoder_decoder import Encoded
from radrep.modules.backbone import Backbone
from tests.data.dicom.drawing import DEEP, draw
from tests.interop.rows import check_row
from tests.whole_way import radrep, write_films


@pytest.fixture
def film(films: list[Path]) -> Path:
    return films[0]


def test_the_report_alone_stands_on_stdout(trained_run: Path, film: Path) -> None:
    result = radrep("generate", film, "--checkpoint", trained_run)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    assert result.stdout.strip()


def test_python_gives_the_same_in_three_lines(trained_run: Path, film: Path) -> None:
    writer = ReportGenerator(trained_run)
    text = writer.write(film).text
    assert radrep("generate", film, "--checkpoint", trained_run).stdout.strip() == text


def test_the_newest_run_below_the_folder_is_the_default(
    trained_run: Path, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs/iu").mkdir(parents=True)
    shutil.copytree(trained_run, tmp_path / "runs/iu/mine", symlinks=True)
    shutil.copyfile(film, tmp_path / "image.png")
    expected = radrep("generate", film, "--checkpoint", trained_run).stdout
    monkeypatch.chdir(tmp_path)
    result = radrep("generate", "image.png")
    assert result.exit_code == 0, result.output
    assert result.stdout == expected


def test_images_are_encoded_once_and_attention_is_computed_only_if_asked(
    trained_run: Path, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, encode, features = ReportGenerator(trained_run), CsrLmca.encode, Backbone.stage_maps
    calls, passes = list[tuple[int, bool]](), list[int]()

    def counted(model: CsrLmca, batch: Batch) -> Encoded:
        calls.append((len(batch.ids), batch.features is None))
        return encode(model, batch)

    def passed(backbone: Backbone, images: Tensor) -> list[Tensor]:
        passes.append(len(images))
        return features(backbone, images)

    monkeypatch.setattr(CsrLmca, "encode", counted)
    monkeypatch.setattr(Backbone, "stage_maps", passed)
    reports = list(generator.write_all([StudyFiles((film,)) for film in films[:3]]))
    assert calls == [(3, True)]
    passes.clear()
    assert [report.images for report in reports] == [(film,) for film in films[:3]]
    assert not any(report.attention or report.finding_maps for report in reports)
    explained = generator.write(films[1], explain=True)
    assert calls[1:] == [(1, False)] * 2, "the report, and its attention, from the same features"
    assert passes == [1]
    assert explained.attention
    assert explained.text == reports[1].text


def test_several_studies_and_json(trained_run: Path, films: list[Path]) -> None:
    films = films[:3]
    result = radrep("generate", *films, "--checkpoint", trained_run, "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["images"] for row in rows] == [[str(film)] for film in films]
    for row in rows:
        check_row(row)
    alone = radrep("generate", films[1], "--checkpoint", trained_run, "--json")
    assert json.loads(alone.stdout) == rows[1]


@pytest.mark.slow
@pytest.mark.usefixtures("without_java")
def test_generate_sees_what_evaluation_sees(
    trained_run: Path, phantoms: Path, tmp_path: Path
) -> None:
    """One preprocessing: the raw file of a prepared image gives the evaluation's report."""
    out = tmp_path / "scores"
    assert radrep("eval", trained_run, "--split", "val", "--out", out).exit_code == 0
    rows = [json.loads(line) for line in (out / "predictions-val.jsonl").read_text().splitlines()]
    writer = ReportGenerator(trained_run)
    for row, image in zip(rows, write_films(phantoms, tmp_path / "films", "val"), strict=False):
        assert image.stem == row["id"]
        assert writer.write(image).text == row["generated"]


def test_heatmap_is_drawn_over_the_film(trained_run: Path, film: Path, tmp_path: Path) -> None:
    path = tmp_path / "heatmap.png"
    result = radrep("generate", film, "--checkpoint", trained_run, "--heatmap", path)
    assert result.exit_code == 0, result.output
    drawn = np.asarray(Image.open(path))
    assert drawn.shape[1] == 860
    coloured = (drawn != drawn[..., :1]).any(axis=-1)  # the film under its map, and the legend
    assert coloured[:, drawn.shape[1] // 2 :].mean() > 0.1 > coloured[:, :400].mean()
    again = radrep("generate", film, "--checkpoint", trained_run, "--heatmap", path)
    assert again.exit_code == 2
    assert "exists already" in again.stderr


def test_heatmap_is_drawn_over_a_film_of_512_pixels_that_is_opened_once(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's pixels, 64 a side here, are too coarse: fine stripes would turn grey."""
    stripes = np.zeros((1024, 1024), np.uint8)
    stripes[:512] = np.arange(1024) // 8 % 2 * 255
    path, heatmap = tmp_path / "film.png", tmp_path / "heatmap.png"
    Image.fromarray(stripes).save(path)
    words = ("--checkpoint", trained_run, "--projection", "frontal", "--heatmap", heatmap)
    opened, open_path = list[Path](), Path.open

    def counted(self: Path, *args: Any, **kwargs: Any) -> Any:
        opened.append(self)
        return open_path(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", counted)
    result = radrep("generate", path, *words)
    assert result.exit_code == 0, result.output
    assert opened.count(path) == 1
    plain = np.asarray(Image.open(heatmap).convert("L"))[360:530, 40:400]
    assert plain.std() > 90  # 127 for stripes, 0 for grey
    report = ReportGenerator(trained_run).write(path, explain=True)
    assert [film.shape for film in report.films] == [(512, 512)]
    assert report.text == result.stdout.strip()


def test_attention_sums_to_one_over_the_views(trained_run: Path, film: Path) -> None:
    report = ReportGenerator(trained_run).write(film, explain=True)
    assert len(report.attention) == 1
    assert float(np.sum(report.attention)) == pytest.approx(1.0, abs=1e-5)


def test_sampling_repeats_with_its_seed(trained_run: Path, film: Path) -> None:
    words = ("generate", film, "--checkpoint", trained_run, "--method", "sample", "--seed")
    assert radrep(*words, 3).stdout == radrep(*words, 3).stdout
    assert len({radrep(*words, seed).stdout for seed in range(4)}) > 1


def test_dicom_works_like_its_pixels(trained_run: Path, data_dir: Path) -> None:
    film = data_dir / "dicom/chest_pa_monochrome2_jpeg.dcm"
    result = radrep("generate", film, "--checkpoint", trained_run)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip()


def test_what_was_chosen_in_reading_dicom_is_one_warning(trained_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(draw(DEEP, elements={"WindowCenter": "9000", "WindowWidth": "100"}))
    heatmap = ("--heatmap", tmp_path / "map.png")  # reads the file at two sizes
    for more in ((), heatmap):
        result = radrep("generate", path, "--checkpoint", trained_run, *more)
        assert result.exit_code == 0, result.output
        warning = "x.dcm: its window leaves no picture and is not used (center 9000, width 100)"
        assert result.stderr.replace("\n", "").count(warning) == 1


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda p: p, "not found"),
        (lambda p: p.mkdir() or p, "folder"),
        (lambda p: p.write_text("hello") and p, "not a PNG, JPEG or DICOM file, nor TIFF or BMP"),
        (lambda p: _truncate(p), "truncated|cannot be read|cut"),
    ],
    ids=["missing", "folder", "text", "truncated"],
)
def test_what_is_no_image_ends_in_one_block(
    trained_run: Path, tmp_path: Path, make: object, told: str
) -> None:
    path = make(tmp_path / "x.png")  # type: ignore[operator]
    result = radrep("generate", path, "--checkpoint", trained_run)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert re.search(told, result.stderr), result.stderr
    assert str(path) in result.stderr.replace("\n", "")
    assert "Traceback" not in result.stderr


def test_one_bad_file_costs_no_other_report(
    trained_run: Path, films: list[Path], tmp_path: Path
) -> None:
    """Whatever its place in a batch, and however many are bad."""
    html, empty = tmp_path / "html.png", tmp_path / "empty.dcm"
    html.write_text("<!doctype html>")
    empty.touch()
    gone = tmp_path / "gone.png"
    given = [html, films[0], gone, films[1], films[2], empty]
    for more in ([], ["--json"], ["--method", "sample"]):
        result = radrep("generate", *given, "--checkpoint", trained_run, *more)
        alone = radrep("generate", *films[:3], "--checkpoint", trained_run, *more)
        assert alone.exit_code == 0
        assert result.exit_code == 2
        assert result.stdout == alone.stdout
        told = result.stderr.splitlines()[-4:]
        assert told[0] == "error: 3 of 6 files have no report:"
        for line, path in zip(told[1:], (html, gone, empty), strict=True):
            assert line.startswith(f"  {path}"), line


def test_a_picture_from_a_pipe_is_read(
    trained_run: Path, film: Path, tmp_path: Path, data_dir: Path
) -> None:
    for source in (film, data_dir / "dicom/chest_pa_monochrome2_jpeg.dcm"):
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        feeder = Thread(target=pipe.write_bytes, args=(source.read_bytes(),))
        feeder.start()
        result = radrep("generate", pipe, "--checkpoint", trained_run)
        feeder.join()
        assert result.exit_code == 0, result.output
        assert result.stdout == radrep("generate", source, "--checkpoint", trained_run).stdout
        pipe.unlink()


@pytest.mark.parametrize(
    "name", ["a\tb.png", "a\nb.png", 'a"b.png', "ü é.png", b"a\xff.png", "\x1b[31m"]
)
def test_a_name_stays_in_its_field(
    name: str | bytes, trained_run: Path, films: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / os.fsdecode(name)
    shutil.copyfile(films[0], path)
    result = radrep("generate", path, films[1], "--checkpoint", trained_run)
    assert result.exit_code == 0, result.output
    (field, text), (other, _) = (line.split("\t") for line in result.stdout.splitlines())
    assert (json.loads(field) if field.startswith('"') else field) == str(path)
    assert other == str(films[1])
    rows = radrep("generate", path, films[1], "--checkpoint", trained_run, "--json").stdout
    first = json.loads(rows.splitlines()[0])
    assert (first["images"], first["report"], first["made"]) == ([str(path)], text, "decoded")


def _truncate(path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (128, 128), np.uint8)
    Image.fromarray(noise).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:900])
    return path


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--method", "bam"], "must be 'beam', 'greedy', 'sample', 'select' or 'consensus'"),
        (["--method", "sample", "--top-p", "1.5"], "decode.top_p"),
        (["--checkpoint", "nowhere"], "nowhere not found"),
        (["--preset", "mambaxray_iu"], "is for emrrg alone, got mambaxray_iu"),
    ],
)
def test_wrong_options_end_in_one_block(
    trained_run: Path, film: Path, words: list[str], told: str
) -> None:
    base = [] if "--checkpoint" in words else ["--checkpoint", trained_run]
    result = radrep("generate", film, *base, *words)
    assert result.exit_code == 2
    assert told in result.stderr


def test_more_views_than_the_model_takes_are_refused(trained_run: Path, film: Path) -> None:
    result = radrep("generate", film, film, "--single-study", "--checkpoint", trained_run)
    assert result.exit_code == 2
    assert "2 views of one study, but this model was trained with at most 1" in result.stderr
