"""A .tgz of Open-i."""

from pathlib import Path

from radrep.preparation.sources.iu_xray.images import unpack_images


def read(file: Path) -> None:
    beside = set(file.parent.iterdir())
    scratch = file.with_name("unpacked")
    try:
        unpack_images(file, scratch)
    finally:
        assert set(file.parent.iterdir()) <= beside | {scratch}
