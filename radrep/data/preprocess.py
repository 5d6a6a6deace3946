"""Grey pixels to network input, the same in training, evaluation and `generate`."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

from radrep.data.image_io import resize, short_side_shape

# The published recipes cut 224 out of a short side of 256; other sizes keep that ratio.
_SHORT_SIDE_RATIO = 256 / 224


@dataclass(frozen=True)
class Preprocess:
    """Sizes, crops and normalises one image."""

    size: int  # height and width of what comes out
    mean: tuple[float, float, float]  # of each channel, of pixels from 0 to 1
    std: tuple[float, float, float]
    equalize_and_sharpen: bool = False  # in evaluation too, as CSR-LMCA's public code does
    random_flip: bool = False  # swaps left and right while the report does not follow
    # Train on crops of 20 to 100 % of the image, of sides 3:4 to 4:3, as autoregressive
    # pretraining does (ARM, arXiv 2406.07537).
    resized_crop: bool = False

    def train(
        self, image: np.ndarray, generator: torch.Generator, *, saliency: bool = False
    ) -> Tensor:
        """Cut a random square of pixels, uint8 (h, w); return it normalised, (3, size, size).

        Every image takes equally many random numbers, so two generators in the same state cut two
        images at the same place. An image under a `saliency` mask is not equalised or sharpened.
        """
        pixels = self._enhance(image, saliency)
        if self.resized_crop:
            return self._normalise(self._resized_crop(pixels, generator))
        short_side = round(self.size * _SHORT_SIDE_RATIO)
        pixels = resize(pixels, *short_side_shape(pixels.shape, short_side))
        height, width = pixels.shape
        top = _draw(height - self.size + 1, generator)
        left = _draw(width - self.size + 1, generator)
        flip = _draw(2, generator) == 1
        pixels = pixels[top : top + self.size, left : left + self.size]
        return self._normalise(pixels[:, ::-1] if flip and self.random_flip else pixels)

    def _resized_crop(self, pixels: np.ndarray, generator: torch.Generator) -> np.ndarray:
        height, width = pixels.shape
        share, ratio, down, across, flip = torch.rand(5, generator=generator).tolist()
        area = (0.2 + 0.8 * share) * height * width
        shape = math.exp((2 * ratio - 1) * math.log(4 / 3))  # width over height
        tall = min(height, round(math.sqrt(area / shape)))
        wide = min(width, round(math.sqrt(area * shape)))
        top, left = round(down * (height - tall)), round(across * (width - wide))
        cut = resize(pixels[top : top + tall, left : left + wide], self.size, self.size)
        return cut[:, ::-1] if self.random_flip and flip < 0.5 else cut

    def evaluate(self, image: np.ndarray, *, saliency: bool = False) -> Tensor:
        """Squash the whole image to a square, otherwise as `train`."""
        return self._normalise(resize(self._enhance(image, saliency), self.size, self.size))

    def _enhance(self, image: np.ndarray, saliency: bool) -> np.ndarray:
        if not self.equalize_and_sharpen or saliency:
            return image
        picture = ImageOps.equalize(Image.fromarray(image))
        return np.array(picture.filter(ImageFilter.SHARPEN))

    def _normalise(self, pixels: np.ndarray) -> Tensor:
        grey = torch.from_numpy(pixels.astype(np.float32) / 255.0)  # (size, size)
        mean = torch.tensor(self.mean).view(3, 1, 1)
        std = torch.tensor(self.std).view(3, 1, 1)
        return (grey - mean) / std


def crop_map(whole: Tensor, generator: torch.Generator) -> Tensor:
    """A random square of a map, (c, rows, columns), of 7/8 of its sides, as of pixels."""
    _, rows, columns = whole.shape
    height, width = (round(side / _SHORT_SIDE_RATIO) for side in (rows, columns))
    top, left = _draw(rows - height + 1, generator), _draw(columns - width + 1, generator)
    return whole[:, top : top + height, left : left + width]


def _draw(upper: int, generator: torch.Generator) -> int:
    """One whole number from 0 to upper - 1."""
    return int(torch.randint(upper, (1,), generator=generator))
