"""One pass over images: each is read, decoded and normalised once, for all encoders that read it.

Letters: v images, n patches, c width of a patch.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from radrep.data.dataset import ModelStudies, leave_stopping_to_parent
from radrep.data.preprocess import Preprocess
from radrep.guidance.image_features import encode_images
from radrep.parallel.processes import count_cores
from radrep.training.features.selected_images import Place, SelectedImages

_BATCH = 16
_IN_FLIGHT = 2  # batches a core that are begun before the next one in order is done
_WORKERS = 8
_Encode = Callable[[Tensor], list[Tensor]]


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
        return [tuple(part.shape[1:]) for part in self._encode(self.images[0][None])]

    @torch.no_grad()  # here, since it holds for one thread
    def _encode(self, pixels: Tensor) -> list[Tensor]:
        parts = encode_images(self.encoders, pixels.to(self.device))
        return [part.float().cpu() for part in parts]

    def batches(self, blocks: Iterable[range]) -> Generator[list[Tensor], None, None]:
        """What each encoder makes of the images of blocks in order, float32 (v, n, c), in batches.

        A block begins a batch. The next ones are asked for before all of the last one is made.
        """
        parts = (block[i : i + _BATCH] for block in blocks for i in range(0, len(block), _BATCH))
        on_device = _on_cpu if self.device.type == "cpu" else _on_gpu
        with closing(on_device(self.images, parts, self._encode)) as made:
            yield from made


def _on_gpu(
    images: Pixels, parts: Iterable[range], encode: _Encode
) -> Generator[list[Tensor], None, None]:
    """In order; worker processes decode ahead."""
    sampler: Any = parts  # a loader goes through it once
    loader = DataLoader(
        images,
        batch_sampler=sampler,
        num_workers=min(_WORKERS, count_cores() - 1),
        worker_init_fn=leave_stopping_to_parent,
        pin_memory=torch.cuda.is_available(),
    )
    yield from map(encode, loader)


def _on_cpu(
    images: Pixels, parts: Iterable[range], encode: _Encode
) -> Generator[list[Tensor], None, None]:
    """In order; each core has parts of its own: with small maps, cores that share one wait."""

    def encode_part(part: range) -> list[Tensor]:
        return encode(torch.stack([images[i] for i in part]))

    before, cores = torch.get_num_threads(), count_cores()
    pool = ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,))
    pending: deque[Future[list[Tensor]]] = deque()
    try:
        for part in parts:
            pending.append(pool.submit(encode_part, part))
            if len(pending) > _IN_FLIGHT * cores:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
