"""prepared.json, the record of a prepared folder: which shards it has, and how they were made."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from radrep.errors import DataError
from radrep.json_text import load_json

PREPARED = "prepared.json"
GENERATED = "generated.json"  # the record of a folder of reports
VERIFY = "RADREP_VERIFY"  # 0: files are taken as they are, whatever their checksum
# Bytes hashed at once. Between two blocks a thread waits for the GIL, up to 5 ms beside one that
# builds a model: with the 256 kB of hashlib.file_digest that is most of the time.
_HASHED = 1 << 22
_OF_ANY = ("folder", "phantom")  # sources that are not always the same studies
_KINDS: dict[str, type | tuple[type, ...]] = {
    "recipe_sha256": str,
    "sha256": str,
    "layout": str,
    "num_left_out": int,
    "counts": dict,
    "image_counts": dict,
    "leaks": dict,
    "notes": list,
    "warnings": list,
    "image_notes": list,
}


@dataclass(frozen=True)
class ShardRecord:
    """One shard: its file, split, numbers of studies and images, SHA-256, size in bytes."""

    name: str
    split: str
    studies: int
    images: int
    sha256: str
    num_bytes: int


def source_of(prepared: Path) -> str:
    """A name for the studies that a prepared folder was made of; "" where it is not here."""
    try:
        recipe = read_record(prepared)["recipe"]
    except DataError:
        return ""
    name = str(recipe.get("source", ""))
    return f"{name} {recipe.get('fingerprint')}" if name in _OF_ANY else name


def read_record(prepared: Path, *, changed: bool = False) -> dict[str, Any]:
    """The record of a prepared folder: "recipe", "shards" (see `read_shards`) and more.

    Raises DataError if it is not a prepared folder, was prepared by an older radrep or, but for
    `changed`, if the record is not what was written.
    """
    path = prepared / PREPARED
    if not path.is_file():
        raise DataError(
            f"{prepared} is not a prepared folder: {path} not found. Make one with radrep prepare, "
            "for example: radrep prepare iu --raw DIR --out NEW_FOLDER"
        )
    try:
        record = load_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("recipe"), dict):
        raise DataError(f"{path} is not the record of a prepared folder; name another folder")
    # A folder of an older radrep has no hash of its record.
    if (
        not changed
        and verifies()
        and record.get("sha256", hash_record(record)) != hash_record(record)
    ):
        raise DataError(
            f"{path} was changed after it was prepared, by its checksum. See what is wrong with: "
            f"radrep data check {prepared}, then prepare it again; {VERIFY}=0 reads it as it is"
        )
    try:
        shards = _parse_shards(record)
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{prepared} was prepared by an older radrep ({PREPARED} lists no shards as this one "
            "does). Remove it and prepare it again, or name another folder"
        ) from error
    problem = _find_misfit(record, shards)
    if problem:
        raise DataError(f"{path} is not the record of a prepared folder: {problem}")
    return record


def read_shards(
    prepared: Path, split: str | None = None, *, changed: bool = False
) -> list[ShardRecord]:
    """The shards of a prepared folder, or of one of its splits, in order; see `read_record`."""
    shards = _parse_shards(read_record(prepared, changed=changed))
    return [shard for shard in shards if split in (None, shard.split)]


def _parse_shards(record: Mapping[str, Any]) -> list[ShardRecord]:
    return [ShardRecord(**row) for row in record["shards"]]


def _find_misfit(record: Mapping[str, Any], shards: Sequence[ShardRecord]) -> str:
    """What no record has that radrep wrote; "" for nothing."""
    for shard in shards:
        for key, kind in get_type_hints(ShardRecord).items():
            value = getattr(shard, key)
            if type(value) is not kind or (kind is int and value < 0):
                return f"{key} of a shard is {value!r}"
        if not re.fullmatch(r"[\w-]+\.arrow", shard.name):  # a name leads out of no folder
            return f"a shard is named {shard.name!r}"
    for key, kinds in _KINDS.items():
        if key in record and not isinstance(record[key], kinds):
            return f"{key} is {str(record[key])[:40]!r}"
    size = record["recipe"].get("image_size", 1)
    if type(size) is not int or size < 1:
        return f"recipe.image_size is {size!r}"
    return ""


def read_image_size(prepared: Path) -> int:
    """Short side in pixels of the images in a prepared folder."""
    return int(read_record(prepared)["recipe"]["image_size"])


def verifies() -> bool:
    """Whether files are compared with their checksums when they are opened."""
    return os.environ.get(VERIFY) != "0"


def hash_file(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    digest, block = hashlib.sha256(), memoryview(bytearray(_HASHED))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
    return digest.hexdigest()


def hash_recipe(recipe: Mapping[str, object]) -> str:
    """SHA-256 of a recipe in hexadecimal, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def hash_record(record: Mapping[str, object]) -> str:
    """SHA-256 in hexadecimal of a record, but for its own field "sha256"."""
    hashed = {key: value for key, value in record.items() if key != "sha256"}
    return hash_recipe(hashed)
