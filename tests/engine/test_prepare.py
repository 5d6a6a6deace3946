import errno
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radrep.data.images import fit_short_side, read_image
from radrep.data.sources.iu_xray import IuXraySource
from radrep.data.study import MANIFEST, SourceImage, SourceStudy, read_manifest
from radrep.engine import prepare as prepare_module
from radrep.engine.prepare import PrepareResult, prepare
from radrep.engine.reporter import Advance, Reporter
from radrep.errors import DataError


class DrawnSource:
    """Studies that a test lists; their images lie in a folder of PNG files."""

    name = "drawn"

    def __init__(self, studies: Sequence[SourceStudy], fingerprint: str = "a") -> None:
        self.studies = studies
        self._fingerprint = fingerprint

    def fingerprint(self) -> str:
        return self._fingerprint

    def expected_counts(self) -> dict[str, int] | None:
        return {"train": 5, "val": 1, "test": 0}

    def __len__(self) -> int:
        return len(self.studies)

    def __iter__(self) -> Iterator[SourceStudy]:
        return iter(self.studies)


def draw(path: Path, height: int = 80, width: int = 100) -> Path:
    seed = int.from_bytes(path.name.encode()[:6].ljust(6), "big") % 1000
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width))
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def make_study(study_id: str, *paths: Path, split: str = "train", **sections: str) -> SourceStudy:
    images = tuple(
        SourceImage(path.name, partial(read_image, path), projection)
        for path, projection in zip(paths, ["frontal", "lateral", "unknown"], strict=False)
    )
    return SourceStudy(study_id, f"p-{study_id}", split, images, sections or {"findings": "Clear."})


@pytest.fixture
def source(tmp_path) -> DrawnSource:
    raw = tmp_path / "raw"
    raw.mkdir()
    films = [draw(raw / f"{number}.png") for number in range(4)]
    films.append(draw(raw / "square.png", 64, 64))
    (raw / "broken.png").write_text("no picture")
    return DrawnSource(
        [
            make_study("b", films[0], films[1], findings="Clear.", impression=" "),
            make_study("a", films[2], raw / "broken.png", films[3], split="val", impression="Old."),
            make_study("c", raw / "broken.png", raw / "absent.png"),
            make_study("d", films[0], findings=" ", impression="", indication="Cough."),
            make_study("b", films[3], split="test"),
            make_study("e", films[4]),
        ]
    )


def list_files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_images_and_manifest_are_written_and_counted(source, tmp_path):
    out = tmp_path / "deep" / "out"
    result = prepare(source, out, image_size=40, workers=1)
    assert result == PrepareResult(
        out=out,
        counts={"train": 2, "val": 1, "test": 0},
        image_counts={"train": 3, "val": 2, "test": 0},
        expected={"train": 5, "val": 1, "test": 0},
        left_out=result.left_out,
        num_square=1,
        already_done=False,
    )
    assert result.num_images == 5
    first, second, third = read_manifest(out, ("train", "val"))
    assert [first.id, second.id, third.id] == ["b", "a", "e"]
    assert [(image.path, image.projection) for image in second.images] == [
        ("images/a/0.png", "frontal"),
        ("images/a/2.png", "unknown"),  # k and projection stay those of the source
    ]
    assert (second.patient_id, second.split, second.source) == ("p-a", "val", "drawn")
    assert first.sections == {"findings": "Clear."}
    assert second.sections == {"impression": "Old."}
    assert sorted(list_files(out)) == [
        "images/a/0.png",
        "images/a/2.png",
        "images/b/0.png",
        "images/b/1.png",
        "images/e/0.png",
        "left_out.jsonl",
        "manifest.jsonl",
        "prepared.json",
    ]
    assert not (tmp_path / "deep" / "out.partial").exists()


def test_prepared_pixels_are_exactly_the_fitted_source_pixels(source, tmp_path):
    prepare(source, tmp_path / "out", image_size=40, workers=1)
    for study, number in (("b", 1), ("a", 0)):
        path = tmp_path / "out" / "images" / study / f"{number}.png"
        original = source.studies[0 if study == "b" else 1].images[number].read(256)
        assert np.array_equal(read_image(path), fit_short_side(original, 40))
        with Image.open(path) as picture:
            assert (picture.mode, picture.size) == ("L", (50, 40))


def test_everything_left_out_has_its_reason(source, tmp_path):
    result = prepare(source, tmp_path / "out", workers=1)
    whats = [what for what, _ in result.left_out]
    assert whats == ["broken.png", "broken.png", "absent.png", "study c", "study d", "study b"]
    reasons = dict(result.left_out)
    assert "not a PNG, JPEG or DICOM" in reasons["broken.png"]
    assert "not found" in reasons["absent.png"]
    assert reasons["study c"] == "none of its images can be read"
    assert reasons["study d"] == "neither findings nor impression"
    assert reasons["study b"] == "its id is already that of a study in train"
    lines = (tmp_path / "out" / "left_out.jsonl").read_text().splitlines()
    assert [tuple(json.loads(line).values()) for line in lines] == list(result.left_out)


def test_odd_ids_get_safe_folders_of_their_own(tmp_path):
    film = draw(tmp_path / "film.png")
    ids = ["../up", "a/b", "A", "a", "a_b", "", "con.", "x" * 300, "\N{DEGREE SIGN}", ".hidden"]
    source = DrawnSource([make_study(study_id, film) for study_id in ids])
    result = prepare(source, tmp_path / "out", workers=1)
    assert result.counts["train"] == len(ids)
    studies = read_manifest(tmp_path / "out", ("train",))
    assert [study.id for study in studies] == ids
    folders = [Path(study.images[0].path).parent for study in studies]
    assert len({str(folder).casefold() for folder in folders}) == len(ids)
    assert all(folder.parent == Path("images") and len(folder.name) < 101 for folder in folders)
    assert all((tmp_path / "out" / folder / "0.png").is_file() for folder in folders)
    assert folders[2] == Path("images/A")


def test_workers_write_the_same_bytes_in_the_same_order(tmp_path):
    films = [draw(tmp_path / f"{number}.png") for number in range(7)]
    (tmp_path / "broken.png").write_text("no picture")
    films.append(tmp_path / "broken.png")
    studies = [make_study(str(n), films[n % 8], films[(n + 3) % 8]) for n in range(60)]
    results = [
        prepare(DrawnSource(studies), tmp_path / f"out{workers}", workers=workers)
        for workers in (1, 2)
    ]
    assert list_files(tmp_path / "out1") == list_files(tmp_path / "out2")
    assert results[0].left_out == results[1].left_out
    assert len(results[0].left_out) == 14


def test_the_reporter_follows_every_study(source, tmp_path):
    class Recorder(Reporter):
        def __init__(self) -> None:
            self.progressed: list[object] = []

        @contextmanager
        def progress(self, label: str, total: int, unit: str) -> Iterator[Advance]:
            self.progressed.append((label, total, unit))
            yield lambda n=1: self.progressed.append(n)

    recorder = Recorder()
    prepare(source, tmp_path / "out", workers=1, reporter=recorder)
    assert recorder.progressed == [("prepare", 6, "studies"), *([1] * 6)]


def test_running_twice_does_nothing_twice(source, tmp_path):
    out = tmp_path / "out"
    first = prepare(source, out, workers=1)
    times = {path: path.stat().st_mtime_ns for path in (out, *out.rglob("*"))}
    source.studies = ()  # nothing of it may be looked at again
    again = prepare(source, out, workers=1)
    assert again.already_done
    assert (again.counts, again.image_counts, again.expected, again.left_out, again.num_square) == (
        first.counts,
        first.image_counts,
        first.expected,
        first.left_out,
        first.num_square,
    )
    assert {path: path.stat().st_mtime_ns for path in (out, *out.rglob("*"))} == times


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 64}, "image_size 256, now 64"),
        ({"fingerprint": "b"}, "fingerprint a, now b"),
        ({"name": "other"}, "source drawn, now other"),
    ],
)
def test_a_folder_of_another_recipe_is_left_as_it_is(source, tmp_path, change, message):
    out = tmp_path / "out"
    prepare(source, out, workers=1)
    before = list_files(out)
    other = DrawnSource(source.studies, change.get("fingerprint", "a"))
    other.name = change.get("name", "drawn")
    with pytest.raises(DataError, match=f"another recipe .*{message}.*left as it is"):
        prepare(other, out, image_size=change.get("image_size", 256), workers=1)
    assert list_files(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


def test_a_folder_of_somebody_else_is_left_as_it_is(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="not empty and was not made by radrep prepare"):
        prepare(source, out, workers=1)
    assert list(list_files(out)) == ["thesis.txt"]
    with pytest.raises(DataError, match=r"thesis\.txt is a file"):
        prepare(source, out / "thesis.txt", workers=1)


def test_an_empty_folder_is_used(source, tmp_path):
    (tmp_path / "out").mkdir()
    assert prepare(source, tmp_path / "out", workers=1).num_images == 5


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda out: (out / MANIFEST).unlink(), r"manifest\.jsonl is missing"),
        (lambda out: (out / MANIFEST).write_text("{}"), "was changed after it was prepared"),
        (lambda out: (out / "images" / "a" / "0.png").unlink(), r"a/0\.png is missing"),
        (lambda out: (out / "prepared.json").write_text("{"), r"prepared\.json cannot be read"),
        (lambda out: (out / "prepared.json").write_text("[]"), "not the record of a prepared"),
    ],
)
def test_a_damaged_folder_is_not_taken_for_done(source, tmp_path, damage, message):
    out = tmp_path / "out"
    prepare(source, out, workers=1)
    damage(out)
    with pytest.raises(DataError, match=message):
        prepare(source, out, workers=1)


class StoppedSource(DrawnSource):
    def __init__(self, studies: Sequence[SourceStudy], error: BaseException) -> None:
        super().__init__(studies)
        self._error = error

    def __iter__(self) -> Iterator[SourceStudy]:
        yield from self.studies
        raise self._error


@pytest.mark.parametrize(
    ("workers", "error", "raised"),
    [
        (1, KeyboardInterrupt(), KeyboardInterrupt),
        (1, RuntimeError("own bug"), RuntimeError),
        (1, DataError("broken raw"), DataError),
        (1, PermissionError(errno.EACCES, "Permission denied", "raw"), DataError),
        (2, RuntimeError("own bug"), RuntimeError),
    ],
    ids=["interrupt", "bug", "data", "permission", "bug with workers"],
)
def test_nothing_is_left_behind_when_it_stops_midway(source, tmp_path, workers, error, raised):
    before = list_files(tmp_path)
    with pytest.raises(raised):
        prepare(StoppedSource(source.studies, error), tmp_path / "out", workers=workers)
    assert list_files(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_full_disk_tells_what_is_free_and_needed(source, tmp_path, monkeypatch):
    write = prepare_module._write_png
    written = []

    def write_until_full(pixels: np.ndarray, path: Path) -> int:
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written.append(write(pixels, path))
        return 10_000_000

    monkeypatch.setattr(prepare_module, "_write_png", write_until_full)
    # Study b's two images and a's first fit: 20 MB for 1 study of 6.
    with pytest.raises(DataError, match=r"no space left .* MB free, about 120 MB needed"):
        prepare(source, tmp_path / "out", workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_worker_that_dies_is_told(source, tmp_path):
    killer = SourceImage("killer", os._exit)
    studies = [*source.studies, SourceStudy("k", None, "train", (killer,), {"findings": "x"})]
    with pytest.raises(DataError, match="a worker process died"):
        prepare(DrawnSource(studies), tmp_path / "out", workers=2)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_killed_runs_leftovers_are_replaced_but_not_a_running_ones(source, tmp_path):
    partial_out = tmp_path / "out.partial"
    partial_out.mkdir()
    (partial_out / "mine.txt").write_text("not radrep's")
    with pytest.raises(DataError, match="has no mark of radrep"):
        prepare(source, tmp_path / "out", workers=1)
    assert (partial_out / "mine.txt").is_file()

    marker = partial_out / "in_progress.json"
    running = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    marker.write_text(json.dumps({"host": socket.gethostname(), "pid": running.pid}))
    with pytest.raises(DataError, match=f"being written by another .*process {running.pid}"):
        prepare(source, tmp_path / "out", workers=1)
    running.communicate(b"\n")
    marker.write_text(json.dumps({"host": "elsewhere", "pid": running.pid}))
    with pytest.raises(DataError, match="on elsewhere"):
        prepare(source, tmp_path / "out", workers=1)
    marker.write_text(json.dumps({"host": socket.gethostname(), "pid": running.pid}))
    assert prepare(source, tmp_path / "out", workers=1).num_images == 5
    assert not partial_out.exists()
    assert not (tmp_path / "out" / "mine.txt").exists()


@pytest.mark.parametrize("name", ["image_size", "workers"])
def test_sizes_below_one_are_refused(source, tmp_path, name):
    with pytest.raises(DataError, match=f"{name} must be at least 1, got 0"):
        prepare(source, tmp_path / "out", **{name: 0})


def test_a_source_without_any_usable_study_is_refused(source, tmp_path):
    with pytest.raises(DataError, match="no study of drawn can be used. First left out: broken"):
        prepare(DrawnSource(source.studies[2:4]), tmp_path / "out", workers=1)
    with pytest.raises(DataError, match="the source is empty"):
        prepare(DrawnSource([]), tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


def test_preparing_imports_no_torch():
    code = (
        "import sys, radrep.engine.prepare, radrep.data.sources.iu_xray, radrep.data.tokenizer\n"
        "assert 'torch' not in sys.modules and 'pydicom' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_the_real_iu_folder_is_prepared_whole(data_dir, tmp_path):
    source = IuXraySource(data_dir / "iu_xray")
    result = prepare(source, tmp_path / "iu")
    assert result.counts == {"train": 2068, "val": 295, "test": 0}
    assert result.image_counts == {"train": 4136, "val": 590, "test": 0}
    assert result.expected == {"train": 2069, "val": 296, "test": 590}
    assert result.left_out == ()
    assert result.num_square == result.num_images  # these were squashed to squares before
    studies = read_manifest(tmp_path / "iu", ("train", "val"))
    assert [study.id for study in studies] == [study.id for study in source]
    for study, original in list(zip(studies, source, strict=True))[::97]:
        for image, view in zip(study.images, original.images, strict=True):
            expected = fit_short_side(view.read(256), 256)
            assert np.array_equal(read_image(tmp_path / "iu" / image.path), expected)
    assert prepare(source, tmp_path / "iu").already_done
