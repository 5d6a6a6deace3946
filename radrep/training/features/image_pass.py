"""One pass over images: each is read, decoded and normalised once, for all encoders that read it.

Letters: v images, n patches, c width of a patch; k numbers that all encoders make of an image.
"""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from radrep.data.dataset import ModelStudies, leave_stopping_to_parent
from radrep.data.preprocess import Preprocess
from radrep.guidance.image_features import encode_images
from radrep.parallel.processes import count_cores
from radrep.training.features.selected_images import Place, SelectedImages
from radrep.training.parallel.work_blocks import SharedBlocks

_BATCH = 16
_IN_FLIGHT = 8  # parts per core that wait to be written: memory stays flat
_WORKERS = 8
_BLOCK = 64 * _BATCH  # images that one of several processes takes at a time


@dataclass(frozen=True, eq=False)
class Pixels(Dataset[Tensor]):
    """Normalised images, (3, h, w) each: squashed, never cropped."""

    studies: ModelStudies
    places: Sequence[Place]
    preprocess: Preprocess

    @classmethod
    def of(cls, selected: SelectedImages, preprocess: Preprocess) -> "Pixels":
        """Those of a split."""
        return cls(selected.studies, [*selected.places.values()], preprocess)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> Tensor:
        index, view = self.places[number]
        pixels = self.studies.read_view(index, view)
        return self.preprocess.evaluate(pixels, saliency=view.masked)


@dataclass(frozen=True)
class ImagePass:
    """What encoders make of images, each a module from pixels (v, 3, h, w) to (v, n, c)."""

    encoders: Sequence[nn.Module]
    images: Pixels
    device: torch.device

    def __post_init__(self) -> None:
        for encoder in self.encoders:
            encoder.to(self.device).eval()

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """(n, c) of each encoder, by the first image."""
        return [tuple(part.shape[1:]) for part in self._parts(self.images[0][None])]

    @torch.no_grad()  # here, since it holds for one thread
    def _parts(self, pixels: Tensor) -> list[Tensor]:
        return [part.float() for part in encode_images(self.encoders, pixels.to(self.device))]

    def _encode(self, pixels: Tensor) -> Tensor:
        """(v, 3, h, w) -> (v, k)."""
        return torch.cat([part.flatten(1) for part in self._parts(pixels)], dim=1).cpu()

    def rows(self) -> Generator[Tensor, None, None]:
        """What the encoders make of the images in order, side by side: float32 (v, k) each time."""
        on_device = _on_cpu if self.device.type == "cpu" else _on_gpu
        with closing(on_device(self.images, self._encode)) as blocks:
            yield from blocks

    def in_blocks(self, folder: Path, whole: Path) -> SharedBlocks:
        """The same rows, by blocks of images that several processes share out."""
        count = -(-len(self.images) // _BLOCK)
        return SharedBlocks(folder, count, lambda n: self.of(self.places(n)).whole(), whole)

    def places(self, number: int) -> Sequence[Place]:
        """The images of one of these blocks."""
        return self.images.places[number * _BLOCK :][:_BLOCK]

    def of(self, places: Sequence[Place]) -> "ImagePass":
        """The pass over other images of the split."""
        return replace(self, images=replace(self.images, places=places))

    def whole(self) -> np.ndarray:
        """All rows at once, float32 (v, k)."""
        return torch.cat([*self.rows()]).numpy()


def _on_gpu(images: Pixels, encode: Callable[[Tensor], Tensor]) -> Generator[Tensor, None, None]:
    """In order; worker processes decode ahead."""
    loader = DataLoader(
        images,
        batch_size=_BATCH,
        num_workers=min(_WORKERS, count_cores() - 1),
        worker_init_fn=leave_stopping_to_parent,
        pin_memory=torch.cuda.is_available(),
    )
    yield from map(encode, loader)


def _on_cpu(images: Pixels, encode: Callable[[Tensor], Tensor]) -> Generator[Tensor, None, None]:
    """In order; each core has parts of its own: with small maps, cores that share one wait."""

    def encode_part(start: int) -> Tensor:
        return encode(torch.stack([images[i] for i in range(len(images))[start : start + _BATCH]]))

    before = torch.get_num_threads()
    cores = count_cores()
    starts, ahead = range(0, len(images), _BATCH), _IN_FLIGHT * cores
    pool = ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for first in range(0, len(starts), ahead):
            yield from pool.map(encode_part, starts[first : first + ahead])
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
