"""The record of a prepared folder, prepared.json."""

import json
from pathlib import Path
from typing import Any

from radrep.data.store import PREPARED
from radrep.errors import DataError


def read_record(out: Path) -> dict[str, Any]:
    """The record of a prepared folder.

    Raises:
        DataError: If `out` is not one, or was made by an older radrep.
    """
    path = out / PREPARED
    if not path.is_file():
        raise DataError(
            f"{out} is not a prepared folder: it has no {PREPARED}. Make one with radrep prepare, "
            "with --out naming a folder that is not there yet"
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("recipe"), dict):
        raise DataError(f"{path} is not the record of a prepared folder; give another --out")
    if not isinstance(record.get("shards"), list):
        raise DataError(
            f"{out} was prepared by an older radrep. Remove it and prepare it again, or give "
            "another --out"
        )
    return record


def read_image_size(out: Path) -> int:
    """Short side in pixels of the images in a prepared folder.

    Raises:
        DataError: If `out` is not a prepared folder.
    """
    return int(read_record(out)["recipe"]["image_size"])
