"""prepared.json, the record of a prepared folder: which shards it has, and how they were made."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radrep.errors import DataError

PREPARED = "prepared.json"
VERIFY = "RADREP_VERIFY"  # 0: files are taken as they are, whatever their checksum


@dataclass(frozen=True)
class ShardRecord:
    """One shard: its file, split, numbers of studies and images, SHA-256, size in bytes."""

    name: str
    split: str
    studies: int
    images: int
    sha256: str
    num_bytes: int


def read_record(prepared: Path) -> dict[str, Any]:
    """The record of a prepared folder: "recipe", "shards" (see `read_shards`) and more.

    Raises DataError if it is not a prepared folder, or was prepared by an older radrep.
    """
    path = prepared / PREPARED
    if not path.is_file():
        raise DataError(
            f"{prepared} is not a prepared folder: {path} not found. Make one with radrep prepare, "
            "for example: radrep prepare iu --raw DIR --out NEW_FOLDER"
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("recipe"), dict):
        raise DataError(f"{path} is not the record of a prepared folder; name another folder")
    try:
        _parse_shards(record)
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{prepared} was prepared by an older radrep ({PREPARED} lists no shards as this one "
            "does). Remove it and prepare it again, or name another folder"
        ) from error
    return record


def read_shards(prepared: Path, split: str | None = None) -> list[ShardRecord]:
    """The shards of a prepared folder, or of one of its splits, in order."""
    shards = _parse_shards(read_record(prepared))
    return [shard for shard in shards if split in (None, shard.split)]


def _parse_shards(record: Mapping[str, Any]) -> list[ShardRecord]:
    return [ShardRecord(**row) for row in record["shards"]]


def read_image_size(prepared: Path) -> int:
    """Short side in pixels of the images in a prepared folder."""
    return int(read_record(prepared)["recipe"]["image_size"])


def verifies() -> bool:
    """Whether files are compared with their checksums when they are opened."""
    return os.environ.get(VERIFY) != "0"


def hash_file(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_recipe(recipe: Mapping[str, object]) -> str:
    """SHA-256 of a recipe in hexadecimal, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def hash_record(record: Mapping[str, object]) -> str:
    """SHA-256 in hexadecimal of a record, but for its own field "sha256"."""
    hashed = {key: value for key, value in record.items() if key != "sha256"}
    return hash_recipe(hashed)
