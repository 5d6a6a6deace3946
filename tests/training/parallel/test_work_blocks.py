"""Features that several processes compute together."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from radrep.data.dataset import ModelStudies
from radrep.data.image_selection import ImageSelection
from radrep.data.preprocess import Preprocess
from radrep.progress import Reporter
from radrep.training import feature_cache
from radrep.training.accelerator import build_accelerator
from radrep.training.feature_cache import FEATURES, SelectedImages, cached_features
from radrep.training.parallel.work_blocks import SharedBlocks
from tests.training.parallel.processes import run, start, wait


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


def features(prepared: Path, notes: Path) -> list[bytes]:
    notes.mkdir(exist_ok=True)
    studies = ModelStudies(prepared, "train")
    preprocess = Preprocess(size=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    selected = [SelectedImages.find(studies, ImageSelection("views", 2))]
    device = torch.device("cpu")
    cached_features(Means(notes), preprocess, selected, device=device, reporter=Reporter())
    root = Path(os.environ["RADREP_CACHE"]) / "features"
    assert not [path for path in root.iterdir() if path.name.startswith(".")]
    return [path.read_bytes() for path in sorted(root.glob(f"*/{FEATURES}"))]


@pytest.mark.slow
def test_two_processes_share_the_images_and_write_the_same_file(
    tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "_BATCH", 2)
    monkeypatch.setattr(feature_cache, "_BLOCK", 4)
    expected = features(phantoms, tmp_path / "alone")
    monkeypatch.setenv("RADREP_CACHE", str(tmp_path / "together"))

    def work(_: int) -> int:
        build_accelerator()
        return 0 if features(phantoms, tmp_path / "notes") == expected else 3

    run(tmp_path / "said", 2, work)
    shares = [len(p.read_text().splitlines()) for p in (tmp_path / "notes").iterdir()]
    assert len(shares) == 2
    assert min(shares) >= 4


@pytest.mark.slow
def test_the_block_of_a_process_that_was_killed_is_made_by_another(tmp_path: Path) -> None:
    def make(number: int) -> np.ndarray:
        if number == 0:
            (tmp_path / "begun").touch()
            time.sleep(600)
        return np.full(2, number)

    blocks = SharedBlocks(tmp_path / "blocks", 3, make, tmp_path / "whole")

    def work(_: int) -> int:
        blocks.share("", Reporter())
        return 0

    started = start(tmp_path / "said", 1, work)
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    os.kill(started[0], signal.SIGKILL)
    assert wait(started) == [-signal.SIGKILL]
    ours = replace(blocks, make=lambda number: np.full(2, number))
    ours.share("", Reporter())
    assert [block.tolist() for block in ours.read()] == [[0], [0, 0], [1, 1], [2, 2]]
