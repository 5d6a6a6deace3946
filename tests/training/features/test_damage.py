"""Damaged blocks of the cache of image features, and a disk that fills up."""

import errno
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from radrep.data.dataset import ModelStudies
from radrep.data.image_selection import View
from radrep.errors import RadrepError
from radrep.progress import Advance, Reporter
from radrep.training.features import entry as entry_module
from tests.training.features.test_cache import Heard, features_of
from tests.whole_way import radrep


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 64
    file.write_bytes(content)


def to_older(entry: Path) -> None:
    """As radrep had it before there were blocks."""
    shutil.copy(entry / "000000.npy", entry / "features.npy")
    for file in entry.glob("0*"):
        file.unlink()
    index = json.loads((entry / "index.json").read_text())
    del index["blocks"]
    (entry / "index.json").write_text(json.dumps(index))


def to_file(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.touch()


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (lambda entry: flip(entry / "000001.npy", -2), "000001.npy is not what was written, by"),
        (lambda entry: flip(entry / "index.json", -100), "index.json is not what was written"),
        (lambda entry: (entry / "index.json").write_text("{ cut"), "index.json is not what was"),
        (lambda entry: (entry / "index.json").write_bytes(b"\xff"), "index.json is not what was"),
        (lambda entry: (entry / "000001.npy").write_bytes(b""), "000001.npy cannot be read"),
        (lambda entry: os.truncate(entry / "000001.npy", 200), "000001.npy cannot be read"),
        (lambda entry: (entry / "000001.npy").unlink(), "000001.npy cannot be read"),
        (lambda entry: flip(entry / "000001.npy.sha256", 0), "000001.npy is not what was written"),
        (lambda entry: (entry / "000001.npy.sha256").write_bytes(b""), "000001.npy cannot be read"),
        (lambda entry: os.replace(entry / "000002.npy", entry / "000001.npy"), "has the shape (2,"),
        (to_older, "features.npy is no block of features, of an older radrep perhaps"),
        (to_file, "is no block of features"),
    ],
)
def test_what_is_damaged_is_made_again_and_nothing_else(
    change: Callable[[Path], object],
    warning: str,
    tmp_path: Path,
    phantoms: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(entry_module, "BLOCK", 3)
    image = ModelStudies(phantoms, "val")[0].images[0]
    expected = features_of(phantoms, "val")(image, View(0))
    (entry,) = (tmp_path / "cache/features").iterdir()
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in entry.iterdir()}
    change(entry)
    assert radrep("cache").exit_code == 0
    heard = Heard()
    found = features_of(phantoms, "val", reporter=heard)(image, View(0))
    assert torch.equal(found, expected)
    assert warning in heard.warnings[0]
    assert len(heard.warnings) == 1
    after = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in entry.iterdir()}
    assert {name: content for name, (content, _) in after.items()} == {
        name: content for name, (content, _) in before.items()
    }
    if "older" not in warning and "is no block" not in warning:
        assert after["000000.npy"] == before["000000.npy"], "whole blocks are not made again"
    features_of(phantoms, "val", reporter=heard)
    assert len(heard.warnings) == 1, "what was made again is whole"


def test_checksums_can_be_turned_off(
    tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features_of(phantoms, "val")
    (entry,) = (tmp_path / "cache/features").iterdir()
    flip(entry / "000000.npy", -2)
    flipped = (entry / "000000.npy").read_bytes()
    monkeypatch.setenv("RADREP_VERIFY", "0")
    features_of(phantoms, "val")
    assert (entry / "000000.npy").read_bytes() == flipped


def test_a_disk_that_fills_up_is_an_error_and_leaves_nothing(
    tmp_path: Path, phantoms: Path
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(RadrepError, match="feature cache cannot be written .* File too large"):
            features_of(phantoms, "val")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [*(tmp_path / "cache/features").glob("*/*")]


def test_a_damaged_block_that_cannot_be_removed_names_the_cache(
    tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features_of(phantoms, "val")
    (entry,) = (tmp_path / "cache/features").iterdir()
    flip(entry / "000000.npy", -2)
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name.endswith(".sha256"):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(RadrepError, match=r"cannot be written .*not permitted.* RADREP_CACHE"):
        features_of(phantoms, "val")


@pytest.mark.parametrize("verified", [True, False])
def test_checksums_of_many_images_have_a_progress_bar(
    verified: bool, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[str, int]] = []

    class Shown(Reporter):
        @contextmanager
        def progress(self, label: str, total: int, unit: str) -> Iterator[Advance]:
            shown.append((label, total))
            yield lambda n=1, note="": None

    features_of(phantoms, "val", reporter=Shown())
    assert [label for label, _ in shown] == ["image features of val"], "few take no time"
    monkeypatch.setattr(entry_module, "_MANY", 8)
    monkeypatch.setenv("RADREP_VERIFY", str(int(verified)))
    features_of(phantoms, "val", reporter=Shown())
    assert shown[1:] == [("checksums of cached features", 1)] * verified
