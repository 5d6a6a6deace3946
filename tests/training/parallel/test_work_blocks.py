"""Features that several processes compute together."""

import os
import signal
import time
from collections.abc import Generator
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
from radrep.training.accelerator import build_accelerator
from radrep.training.features import cache, image_pass
from radrep.training.features.cache import cached_features
from radrep.training.features.entry import FEATURES
from radrep.training.features.selected_images import SelectedImages
from radrep.training.parallel import work_blocks
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
    cached_features({Means(notes): selected}, preprocess, device=device, reporter=Reporter())
    root = Path(os.environ["RADREP_CACHE"]) / "features"
    assert not [path for path in root.iterdir() if path.name.startswith(".")]
    return [path.read_bytes() for path in sorted(root.glob(f"*/{FEATURES}"))]


@pytest.mark.slow
def test_two_processes_share_the_images_and_write_the_same_file(
    tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_pass, "_BATCH", 2)
    monkeypatch.setattr(image_pass, "_BLOCK", 4)
    expected = features(phantoms, tmp_path / "alone")
    monkeypatch.setenv("RADREP_CACHE", str(tmp_path / "together"))

    def work(_: int) -> int:
        build_accelerator()
        return 0 if features(phantoms, tmp_path / "notes") == expected else 3

    run(tmp_path / "said", 2, work)
    shares = [len(p.read_text().splitlines()) for p in (tmp_path / "notes").iterdir()]
    assert len(shares) == 2
    assert min(shares) >= 4


def test_an_entry_that_is_damaged_is_shared_out_again(
    tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its index.json is a file, and no sign that the blocks are not needed."""
    monkeypatch.setenv("RADREP_CACHE", str(tmp_path / "cache"))
    for module in (cache, work_blocks):
        monkeypatch.setattr(module, "count_processes", lambda: (2, 0))
    shared: list[int] = []
    read = SharedBlocks.read

    def note(blocks: SharedBlocks) -> Generator[Tensor, None, None]:
        shared.append(len([*blocks.folder.glob("*.npy")]))
        return read(blocks)

    monkeypatch.setattr(SharedBlocks, "read", note)
    expected = features(phantoms, tmp_path / "notes")
    (index,) = (tmp_path / "cache/features").glob("*/index.json")
    index.write_text("{")
    assert features(phantoms, tmp_path / "notes") == expected
    assert shared == [1, 1]


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", "cut"])
def test_a_block_that_a_crash_left_is_made_again(tmp_path: Path, content: bytes | str) -> None:
    blocks = SharedBlocks(tmp_path / "b", 2, lambda n: np.full(9, n), tmp_path / "whole")
    blocks.share("", Reporter())
    file = tmp_path / "b/000001.npy"
    file.write_bytes(file.read_bytes()[:-1] if isinstance(content, str) else content)
    assert [block.tolist() for block in blocks.read()] == [[0] * 9, [1] * 9]


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
    assert [block.tolist() for block in ours.read()] == [[0, 0], [1, 1], [2, 2]]
