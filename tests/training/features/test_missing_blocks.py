"""Blocks of features that several processes make together."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from radrep.data.dataset import ModelStudies
from radrep.data.image_selection import ImageSelection
from radrep.data.preprocess import Preprocess
from radrep.parallel.processes import take_cores
from radrep.progress import Reporter
from radrep.training.accelerator import build_accelerator
from radrep.training.features import entry, image_pass
from radrep.training.features.cache import cached_features
from radrep.training.features.selected_images import SelectedImages
from tests.crash.contents import read_contents
from tests.training.parallel.processes import run, said, start, wait


class Means(nn.Module):
    """An encoder that notes in a folder which process had how many images."""

    def __init__(self, notes: Path) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.notes = notes

    def forward(self, pixels: Tensor) -> Tensor:
        with (self.notes / str(os.getpid())).open("a") as file:
            file.write(f"{len(pixels)}\n")
        time.sleep(0.02)  # long enough for the other process to come
        return pixels.unflatten(2, (4, -1)).mean(dim=(3, 4)).transpose(1, 2) * self.scale


def features(prepared: Path, notes: Path) -> dict[str, bytes]:
    """All files of the cache."""
    notes.mkdir(exist_ok=True)
    studies = ModelStudies(prepared, "train")
    preprocess = Preprocess(size=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    selected = [SelectedImages.find(studies, ImageSelection("views", 2))]
    device = torch.device("cpu")
    cached_features({Means(notes): selected}, preprocess, device=device, reporter=Reporter())
    return read_contents(Path(os.environ["RADREP_CACHE"]) / "features")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_pass, "_BATCH", 2)
    monkeypatch.setattr(entry, "BLOCK", 4)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_images_and_any_of_them_may_write_the_index(
    count: int,
    tmp_path: Path,
    phantoms: Path,
    small_blocks: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = features(phantoms, tmp_path / "alone")
    assert len(expected) == 8 + 8 + 1
    cache = tmp_path / "together"
    monkeypatch.setenv("RADREP_CACHE", str(cache))

    def work(rank: int) -> int:
        accelerator = build_accelerator()
        same = features(phantoms, tmp_path / "notes") == expected
        for turn in range(count):
            accelerator.wait_for_everyone()
            if turn == rank:
                (index,) = cache.glob("features/*/index.json")
                index.unlink()
                same &= features(phantoms, tmp_path / "notes") == expected
        return 0 if same else 3

    run(tmp_path / "said", count, work)
    made = [sum(map(int, p.read_text().split())) for p in (tmp_path / "notes").iterdir()]
    assert len(made) == count
    # One image more of each for the shape; none is encoded twice.
    assert sum(made) == 32 + count
    assert min(made) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_who_waits_for_a_slow_process_makes_all_else_and_its_block_where_it_is_killed(
    killed: bool,
    tmp_path: Path,
    phantoms: Path,
    small_blocks: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = features(phantoms, tmp_path / "alone")
    monkeypatch.setenv("RADREP_CACHE", str(tmp_path / "together"))
    begun, go_on = tmp_path / "begun", tmp_path / "go-on"
    quick = Means.forward

    def slow(encoder: Means, pixels: Tensor) -> Tensor:
        if len(pixels) > 1:  # not for the shape
            begun.touch()
            while not go_on.exists():
                time.sleep(0.01)
        return quick(encoder, pixels)

    def work(rank: int) -> int:
        take_cores(1)  # which has three batches in flight: all of block 0 and half of block 1
        if rank == 0:
            Means.forward = slow
        else:
            while not begun.exists():
                time.sleep(0.01)
        return 0 if features(phantoms, tmp_path / f"notes-{rank}") == expected else 3

    started = [start(tmp_path / f"said-{rank}", 1, lambda _, r=rank: work(r))[0] for rank in (0, 1)]
    blocks = tmp_path / "together/features"
    try:
        deadline = time.monotonic() + 60
        while len([*blocks.glob("*/*.sha256")]) < 6:
            assert time.monotonic() < deadline, said(tmp_path / "said-1", 0)
            time.sleep(0.02)
        time.sleep(0.5)
        made = {file.stem for file in blocks.glob("*/*.npy")}
        assert made == {f"00000{number}" for number in range(2, 8)}
        assert os.waitpid(started[1], os.WNOHANG) == (0, 0), "it waits for the rest"
    finally:
        if killed:
            os.kill(started[0], signal.SIGKILL)
        else:
            go_on.touch()
    assert wait(started) == [-signal.SIGKILL if killed else 0, 0], said(tmp_path / "said-1", 0)
    assert read_contents(blocks) == expected
    assert not [*blocks.rglob("*.partial"), *blocks.rglob("*.lock")]
