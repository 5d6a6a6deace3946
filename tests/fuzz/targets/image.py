"""A radiograph in any format."""

from pathlib import Path

from radrep.data.image_io import read_image_and_view


def read(file: Path) -> None:
    pixels, _ = read_image_and_view(file, [64, None])
    assert all(each.dtype == "uint8" and each.ndim == 2 for each in pixels)
