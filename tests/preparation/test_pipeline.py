import errno
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radrep.data import arrow
from radrep.data.image_io import fit_short_side, read_image
from radrep.data.store import PreparedStudies
from radrep.data.study import SourceImage, SourceStudy
from radrep.errors import DataError
from radrep.preparation import folder as prepared_folder
from radrep.preparation import pipeline as prepare_module
from radrep.preparation.overlap import Leaks
from radrep.preparation.pipeline import PrepareResult, prepare
from radrep.preparation.plan import Choice, count_studies
from radrep.preparation.sources.base import LazyStudy, Source
from radrep.preparation.sources.iu_xray.source import IuXraySource
from radrep.progress import Advance, Reporter
from tests.whole_way import radrep


class DrawnSource(Source):
    """Studies that a test lists; their images lie in a folder of PNG files."""

    name = "drawn"
    layout = "listed by a test"
    notes = ("drawn by a test",)
    expected_counts = {"train": 5, "val": 1, "test": 0}
    expected_images = {"train": 9, "val": 1, "test": 0}

    def __init__(self, studies: Sequence[SourceStudy], fingerprint: str = "a") -> None:
        self.studies = studies
        self._fingerprint = fingerprint

    def fingerprint(self, advance: Callable[[], None] = lambda: None) -> str:
        return self._fingerprint

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


def test_studies_are_written_and_counted(source, tmp_path):
    out = tmp_path / "deep" / "out"
    result = prepare(source, out, image_size=40, workers=1)
    assert result == PrepareResult(
        out=out,
        counts={"train": 2, "val": 1, "test": 0},
        image_counts={"train": 3, "val": 2, "test": 0},
        expected={"train": 5, "val": 1, "test": 0},
        expected_images={"train": 9, "val": 1, "test": 0},
        left_out=result.left_out,
        image_notes=(),
        num_square=1,
        leaks=result.leaks,
        warnings=result.warnings,
        already_done=False,
    )
    assert [warning[:28] for warning in result.warnings] == ["there is no study in test. I"]
    assert result.num_images == 5
    first, third = PreparedStudies(out, "train")
    (second,) = PreparedStudies(out, "val")
    assert [first.id, second.id, third.id] == ["b", "a", "e"]
    assert [(image.name, image.projection) for image in second.images] == [
        ("2.png", "frontal"),
        ("3.png", "unknown"),  # the projection stays that of the source
    ]
    assert (second.patient_id, second.split, second.source) == ("p-a", "val", "drawn")
    assert first.sections == {"findings": "Clear."}
    assert second.sections == {"impression": "Old."}
    assert sorted(list_files(out)) == [
        "left_out.jsonl",
        "prepared.json",
        "train-00000.arrow",
        "val-00000.arrow",
    ]
    record = json.loads((out / "prepared.json").read_text())
    assert record["notes"] == ["drawn by a test"]
    assert [shard["sha256"] for shard in record["shards"]] == [
        list_files(out)["train-00000.arrow"],
        list_files(out)["val-00000.arrow"],
    ]
    assert not (tmp_path / "deep" / "out.partial").exists()


def test_report_labels_and_odd_text_are_kept(tmp_path):
    film = draw(tmp_path / "film.png")
    text = 'Quote " newline \n degree \N{DEGREE SIGN} half \ud800'
    study = replace(
        make_study("../\ud800", film, findings=text),
        report=f"FINDINGS: {text}",
        labels={"Edema": -1, "Mass": 1},
    )
    prepare(DrawnSource([study]), tmp_path / "out", workers=1)
    (read,) = PreparedStudies(tmp_path / "out", "train")
    # Half a surrogate pair is no character, and no file can hold it.
    assert read.sections["findings"] == text.replace("\ud800", "\N{REPLACEMENT CHARACTER}")
    assert read.report == f"FINDINGS: {read.sections['findings']}"
    assert read.labels == {"Edema": -1, "Mass": 1}
    assert read.id == "../\N{REPLACEMENT CHARACTER}"


def test_prepared_pixels_are_exactly_the_fitted_source_pixels(source, tmp_path):
    prepare(source, tmp_path / "out", image_size=40, workers=1)
    for split, number, original in (("train", 1, 0), ("val", 0, 1)):
        pixels = PreparedStudies(tmp_path / "out", split).read_images(0)[number]
        raw = source.studies[original].images[number].read(40)
        assert np.array_equal(pixels, fit_short_side(raw, 40))
        assert pixels.shape == (40, 50)


def test_any_program_can_open_a_shard(source, tmp_path):
    from datasets import Dataset

    prepare(source, tmp_path / "out", image_size=40, workers=1)
    rows = Dataset.from_file(str(tmp_path / "out" / "train-00000.arrow"))
    assert rows["id"] == ["b", "e"]
    with Image.open(io.BytesIO(rows[0]["images"][0]["bytes"])) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "L", (50, 40))


def test_limit_views_and_section_choose(source, tmp_path):
    films = [tmp_path / "raw" / f"{number}.png" for number in range(2)]
    studies = [make_study(str(number), *films) for number in range(4)]
    studies += [make_study("no findings", *films, impression="Old.")]
    studies += [make_study("side", *films, split="val")]
    chosen = DrawnSource(studies)
    choice = Choice(limit=3, views="lateral", section="findings")
    result = prepare(chosen, tmp_path / "some", choice=choice, workers=1)
    assert result.counts == {"train": 3, "val": 1, "test": 0}
    assert result.image_counts == {"train": 3, "val": 1, "test": 0}
    every = prepare(chosen, tmp_path / "all", choice=Choice(section="findings"), workers=1)
    assert every.left_out == (("study no findings", "no findings"),)
    none = prepare(source, tmp_path / "none", choice=Choice(views="lateral"), workers=1)
    assert ("study e", "no such view") in none.left_out
    counted = count_studies(chosen, choice)
    assert counted.counts["train"] == {"studies": 3, "images": 3, "left_out": 0}
    for wrong in ({"limit": 0}, {"views": "oblique"}, {"section": "history"}):
        with pytest.raises(DataError):
            Choice(**wrong)


def test_what_splits_share_is_counted(source, tmp_path):
    films = [tmp_path / "raw" / f"{number}.png" for number in range(3)]
    same = make_study("twin", films[2], split="val", findings="CLEAR. ")
    studies = [make_study("b", films[0]), same, make_study("t", films[0], split="test")]
    studies[2] = replace(studies[2], patient_id="p-b", sections={"findings": "Unheard of."})
    leaks = prepare(DrawnSource(studies), tmp_path / "out", workers=1).leaks
    assert leaks == Leaks(
        patients={"train/val": 0, "train/test": 1, "val/test": 0},
        images={"train/val": 0, "train/test": 1, "val/test": 0},
        texts={"train/val": 1, "train/test": 0, "val/test": 0},
        text_shares={"train/val": 1.0, "train/test": 0.0, "val/test": 0.0},
        target_texts={
            "findings": {"train/val": 1, "train/test": 0, "val/test": 0},
            "impression": {"train/val": 0, "train/test": 0, "val/test": 0},
            "both": {"train/val": 1, "train/test": 0, "val/test": 0},
        },
        target_shares={
            "findings": {"train/val": 1.0, "train/test": 0.0, "val/test": 0.0},
            "impression": {"train/val": 0.0, "train/test": 0.0, "val/test": 0.0},
            "both": {"train/val": 1.0, "train/test": 0.0, "val/test": 0.0},
        },
        repeated={"train": 0, "val": 0, "test": 0},
    )


def test_shared_texts_are_counted_as_they_are_trained_and_scored(source, tmp_path):
    """The same findings under another impression: no shared report, and yet a known target."""
    films = [tmp_path / "raw" / f"{number}.png" for number in range(3)]
    texts = {
        "train": {"findings": "Heart size normal.", "impression": "No acute disease."},
        "val": {"findings": "Heart size normal .", "impression": "Stable."},
        "test": {"findings": "Large effusion.", "impression": "no acute disease"},
    }
    studies = [
        replace(make_study(split, film, split=split), sections=sections)
        for film, (split, sections) in zip(films, texts.items(), strict=True)
    ]
    leaks = prepare(DrawnSource(studies), tmp_path / "out", workers=1).leaks
    assert leaks.texts == {"train/val": 0, "train/test": 0, "val/test": 0}
    assert leaks.target_texts == {
        "findings": {"train/val": 1, "train/test": 0, "val/test": 0},
        "impression": {"train/val": 0, "train/test": 0, "val/test": 0},
        "both": {"train/val": 0, "train/test": 0, "val/test": 0},
    }
    shown = radrep("data", "check", tmp_path / "out").stdout
    assert "targets     cleaned, of val also in train: findings 100% (1)" in shown
    assert "also occur verbatim" not in shown


def test_everything_left_out_has_its_reason(source, tmp_path):
    result = prepare(source, tmp_path / "out", workers=1)
    whats = [what for what, _ in result.left_out]
    assert whats == [
        *("broken.png", "absent.png", "study c", "study d"),  # train
        *("broken.png", "study b"),  # val, test
    ]
    reasons = dict(result.left_out)
    assert "not a PNG, JPEG or DICOM" in reasons["broken.png"]
    assert "not found" in reasons["absent.png"]
    assert reasons["study c"] == "none of its images can be read"
    assert reasons["study d"] == "neither findings nor impression"
    assert reasons["study b"] == "its id is already that of a study in train"
    lines = (tmp_path / "out" / "left_out.jsonl").read_text().splitlines()
    assert [tuple(json.loads(line).values()) for line in lines] == list(result.left_out)


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


class Recorder(Reporter):
    def __init__(self) -> None:
        self.progressed: list[object] = []
        self.facts: list[str] = []

    def info(self, label: str, text: str) -> None:
        self.facts.append(text)

    @contextmanager
    def progress(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        self.progressed.append((label, total, unit))
        yield lambda n=1, note="": self.progressed.append(n)


def test_the_reporter_follows_every_study(source, tmp_path):
    recorder = Recorder()
    prepare(source, tmp_path / "out", workers=1, reporter=recorder)
    assert recorder.progressed == [("prepare", 6, "studies"), *([1] * 6)]
    assert recorder.facts[0].startswith("5 prepared, ")


class LazySource(DrawnSource):
    """Tells which studies were read."""

    def __init__(self, studies: Sequence[SourceStudy]) -> None:
        super().__init__(studies)
        self.read: list[str] = []

    def outlines(self) -> Iterator[LazyStudy]:
        for study in self.studies:
            yield LazyStudy(study.id, study.split, partial(self._read, study))

    def _read(self, study: SourceStudy) -> SourceStudy:
        self.read.append(study.id)
        return study


def test_a_limit_and_a_resumed_run_read_no_report_in_vain(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "SHARD_STUDIES", 4)
    source = LazySource(draw_many(tmp_path, 200).studies)
    prepare(source, tmp_path / "few", choice=Choice(limit=3), workers=1)
    assert sorted(map(int, source.read)) == [0, 1, 2, 3, 4, 8, 9, 13, 14]
    without_test = LazySource([study for study in source.studies if study.split != "test"])
    without_test.splits = frozenset(("train", "val"))
    count_studies(without_test, Choice(limit=1))
    assert without_test.read == ["0", "3"]
    prepare(source, tmp_path / "whole", workers=1)
    written, write = [], arrow.ShardWriter.write

    def write_until_killed(self, *row) -> None:
        if len(written) == 150:
            raise KeyboardInterrupt
        written.append(write(self, *row))

    with monkeypatch.context() as killed:
        killed.setattr(arrow.ShardWriter, "write", write_until_killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, tmp_path / "out", workers=1)
    source.read.clear()
    recorder = Recorder()
    prepare(source, tmp_path / "out", workers=1, reporter=recorder)
    assert list_files(tmp_path / "out") == list_files(tmp_path / "whole")
    # Of the 150 at least 12 a split are done. Progress counts what is left and nothing else, so
    # that the rate and the time left are those of the work.
    assert 50 < len(source.read) < 200 - 3 * 12
    assert recorder.progressed == [
        ("prepare", len(source.read), "studies"),
        *[1] * len(source.read),
    ]


def test_images_that_are_not_there_are_not_counted(source):
    def find(name: str) -> None:
        if name in ("0.png", "2.png", "broken.png", "3.png"):
            raise DataError(f"{name} not found")

    source.studies = [
        replace(study, images=tuple(replace(i, find=partial(find, i.name)) for i in study.images))
        for study in source.studies[:2]
    ]
    counted = count_studies(source)
    assert counted.counts["train"] == {"studies": 1, "images": 1, "left_out": 0}
    assert counted.counts["val"] == {"studies": 0, "images": 0, "left_out": 1}
    assert ("0.png", "0.png not found") in counted.left_out
    assert ("study a", "none of its images can be read") in counted.left_out


def test_images_that_studies_of_one_split_share_are_told_and_kept(source, tmp_path):
    films = [tmp_path / "raw" / f"{number}.png" for number in range(3)]
    source.studies = [
        make_study("a", *films[:2]),
        make_study("b", films[0]),
        make_study("c", films[0]),
    ]
    result = prepare(source, tmp_path / "out", workers=1)
    assert result.image_counts["train"] == 4
    assert result.leaks.repeated == {"train": 2, "val": 0, "test": 0}


def test_what_a_crash_of_the_machine_leaves_is_done_again(source, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "SHARD_STUDIES", 4)
    source = draw_many(tmp_path, 40)
    prepare(source, tmp_path / "whole", workers=1)
    with pytest.raises(KeyboardInterrupt):
        prepare(StoppedSource(source.studies, KeyboardInterrupt()), tmp_path / "out", workers=1)
    summaries = sorted((tmp_path / "out.partial").glob("*.summary.json"))
    assert len(summaries) > 2
    for name in ("train-00009.arrow.partial", ".train-00009.arrow.summary.json.1.partial"):
        (tmp_path / "out.partial" / name).touch()
    summaries[0].write_text("")
    summaries[1].write_text('{"split": "train"}')
    shard = summaries[2].with_name(summaries[2].name.removesuffix(".summary.json"))
    shard.write_bytes(bytes(shard.stat().st_size))  # as XFS leaves what was not synced
    prepare(source, tmp_path / "out", workers=1)
    assert list_files(tmp_path / "out") == list_files(tmp_path / "whole")


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
    with pytest.raises(DataError, match=f"another recipe .*{message}.*left unchanged"):
        prepare(other, out, image_size=change.get("image_size", 256), workers=1)
    assert list_files(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


def test_a_folder_of_somebody_else_is_left_as_it_is(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="is not a prepared folder: .*prepared.json not found"):
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
        (lambda out: (out / "val-00000.arrow").unlink(), r"val-00000\.arrow is missing"),
        (lambda out: (out / "val-00000.arrow").write_text("{}"), "has another size than recorded"),
        (lambda out: (out / "left_out.jsonl").unlink(), r"left_out\.jsonl cannot be read"),
        (lambda out: (out / "prepared.json").write_text('{"recipe": {}}'), "by an older radrep"),
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


def draw_many(tmp_path: Path, num: int) -> DrawnSource:
    films = [draw(tmp_path / f"film{number}.png") for number in range(3)]
    splits = ["train", "train", "train", "val", "test"]
    return DrawnSource([make_study(str(n), films[n % 3], split=splits[n % 5]) for n in range(num)])


def test_what_a_full_disk_needs_follows_the_limit(tmp_path, monkeypatch):
    source, write, needed = draw_many(tmp_path, 40), arrow.ShardWriter.write, []
    noise = np.random.default_rng(0)
    for film in tmp_path.glob("film*.png"):
        film.write_bytes(arrow.encode_png(noise.integers(0, 256, (512, 512), np.uint8)))
    for limit in (None, 4):
        written = []

        def write_until_full(self, row, written=written) -> None:
            if len(written) == 8:
                raise OSError(errno.ENOSPC, "No space left on device")
            written.append(write(self, row))

        monkeypatch.setattr(arrow.ShardWriter, "write", write_until_full)
        words = {"workers": 1, "image_size": 512, "choice": Choice(limit=limit)}
        with pytest.raises(DataError, match="needed in all") as caught:
            prepare(source, tmp_path / f"out{limit}", **words)
        needed.append(int(str(caught.value).partition("about ")[2].partition(" MB")[0]))
    assert needed[0] >= 10
    assert needed[1] <= needed[0] * 0.4, "12 of 40 studies"


def test_a_full_disk_tells_what_is_needed_and_a_second_try_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "SHARD_STUDIES", 4)
    source = draw_many(tmp_path, 40)
    prepare(source, tmp_path / "whole", workers=1)
    write, written = arrow.ShardWriter.write, []

    def write_until_full(self, *row) -> None:
        if len(written) == 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(write(self, *row))

    with monkeypatch.context() as full:
        full.setattr(arrow.ShardWriter, "write", write_until_full)
        with pytest.raises(DataError, match=r"no space .* MB needed in all.*same command again"):
            prepare(source, tmp_path / "out", workers=1)
    done = sorted(path.name for path in (tmp_path / "out.partial").glob("*.arrow*"))
    assert "train-00001.arrow" in done
    assert not [name for name in done if name.endswith(".partial")]
    looked_at = []
    source.studies = [
        replace(study, images=tuple(Watched(image, looked_at) for image in study.images))
        for study in source.studies
    ]
    prepare(source, tmp_path / "out", workers=1)
    assert list_files(tmp_path / "out") == list_files(tmp_path / "whole")
    assert 0 < len(looked_at) < 40
    assert not (tmp_path / "out.partial").exists()


class Watched:
    """An image that tells when it is read."""

    def __init__(self, image: SourceImage, looked_at: list[str]) -> None:
        self.name, self.projection = image.name, image.projection
        self._image, self._looked_at = image, looked_at

    def read(self, short_side: int) -> np.ndarray:
        self._looked_at.append(self.name)
        return self._image.read(short_side)


def test_what_another_recipe_left_is_not_gone_on_from(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "SHARD_STUDIES", 4)
    source = draw_many(tmp_path, 40)
    with pytest.raises(KeyboardInterrupt):
        prepare(StoppedSource(source.studies, KeyboardInterrupt()), tmp_path / "out", workers=1)
    before = list_files(tmp_path / "out.partial")
    assert "train-00000.arrow" in before
    with pytest.raises(DataError, match="stopped run of another recipe .*image_size 256, now 32"):
        prepare(source, tmp_path / "out", image_size=32, workers=1)
    assert list_files(tmp_path / "out.partial") == before


def test_a_worker_that_dies_is_told(source, tmp_path):
    killer = SourceImage("killer", os._exit)
    studies = [*source.studies, SourceStudy("k", None, "train", (killer,), {"findings": "x"})]
    with pytest.raises(DataError, match="a worker process died"):
        prepare(DrawnSource(studies), tmp_path / "out", workers=2)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_folder_in_the_way_is_left_as_it_is(source, tmp_path):
    partial_out = tmp_path / "out.partial"
    partial_out.mkdir()
    (partial_out / "mine.txt").write_text("not radrep's")
    with pytest.raises(DataError, match="was not left by radrep"):
        prepare(source, tmp_path / "out", workers=1)
    assert (partial_out / "mine.txt").is_file()


LOCKED = """
import sys
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_killed_runs_lock_dies_with_it_and_nothing_is_removed_by_hand(source, tmp_path):
    partial_out, lock = tmp_path / "out.partial", tmp_path / "out.partial.lock"
    partial_out.mkdir()
    recipe = prepare_module.make_recipe(source, 256, Choice())
    (partial_out / "recipe.json").write_text(json.dumps(recipe))
    with subprocess.Popen(
        [sys.executable, "-c", LOCKED, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdout.readline() == b"locked\n"
        with pytest.raises(DataError, match="being written by another radrep prepare"):
            prepare(source, tmp_path / "out", workers=1)
        assert (partial_out / "recipe.json").is_file()
        running.kill()
    assert lock.is_file()
    assert prepare(source, tmp_path / "out", workers=1).num_images == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


def test_a_folder_that_another_run_finished_meanwhile_is_left_as_it_is(source, tmp_path):
    recipe = prepare_module.make_recipe(source, 256, Choice())
    prepare(source, tmp_path / "out", workers=1)
    before = list_files(tmp_path / "out")
    with (
        pytest.raises(DataError, match="made by another radrep meanwhile"),
        prepared_folder.partial_folder(tmp_path / "out", recipe),
    ):
        pytest.fail("nothing is to be written")
    assert list_files(tmp_path / "out") == before


@pytest.mark.parametrize("moment", ["before the mark", "before the rename", "after the rename"])
def test_a_kill_around_the_first_and_last_steps_costs_nothing(
    source, tmp_path, monkeypatch, moment
):
    out, partial_out = tmp_path / "out", tmp_path / "out.partial"
    prepare(source, tmp_path / "whole", workers=1)
    if moment == "before the mark":
        partial_out.mkdir()
    else:
        step = Path.rename if moment == "before the rename" else prepared_folder._clear_marks

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        owner = Path if moment == "before the rename" else prepared_folder
        with monkeypatch.context() as patch:
            patch.setattr(owner, step.__name__, killed)
            with pytest.raises(KeyboardInterrupt):
                prepare(source, out, workers=1)
        assert partial_out.exists() != out.exists()
    prepare(source, out, workers=1)
    assert list_files(out) == list_files(tmp_path / "whole")
    assert not partial_out.exists()


def test_a_file_that_lands_in_the_folder_meanwhile_costs_nothing(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    studies = source.studies

    class Dropping(DrawnSource):
        def __iter__(self) -> Iterator[SourceStudy]:
            yield from studies
            (out / ".DS_Store").touch()

    with pytest.raises(DataError, match="cannot be prepared"):
        prepare(Dropping(studies), out, workers=1)
    assert (tmp_path / "out.partial" / "train-00000.arrow").is_file()
    (out / ".DS_Store").unlink()
    assert prepare(source, out, workers=1).num_images == 5


def test_an_image_twice_in_a_study_is_left_out(tmp_path):
    film, copy = draw(tmp_path / "film.png"), tmp_path / "copy.png"
    copy.write_bytes(film.read_bytes())
    result = prepare(DrawnSource([make_study("s", film, copy)]), tmp_path / "out", workers=1)
    assert result.image_counts["train"] == 1
    assert result.left_out == (("copy.png", "the same image as film.png of this study"),)


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
        "import sys, radrep.preparation.pipeline, radrep.data.tokenizer\n"
        "import radrep.preparation.sources.iu_xray.source\n"
        "assert not {'torch', 'pydicom', 'datasets', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_the_real_iu_folder_is_prepared_whole(data_dir, tmp_path):
    source = IuXraySource(data_dir / "iu_xray")
    result = prepare(source, tmp_path / "iu")
    assert result.counts == {"train": 2068, "val": 295, "test": 0}
    assert result.image_counts == {"train": 4135, "val": 590, "test": 0}
    assert result.expected == {"train": 2069, "val": 296, "test": 590}
    assert result.left_out == (
        ("CXR3245_IM-1537/1.jpg", "the same image as CXR3245_IM-1537/0.jpg of this study"),
    )
    assert result.num_square == result.num_images  # these were squashed to squares before
    originals = {study.id: study for study in source}
    for split in ("train", "val"):
        studies = PreparedStudies(tmp_path / "iu", split)
        assert [s.id for s in studies] == [s.id for s in originals.values() if s.split == split]
        for index in range(0, len(studies), 97):
            views = originals[studies[index].id].images
            for pixels, view in zip(studies.read_images(index), views, strict=True):
                assert np.array_equal(pixels, fit_short_side(view.read(256), 256))
    assert prepare(source, tmp_path / "iu").already_done
