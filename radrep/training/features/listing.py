"""What lies in the folder of caches: shown and cleared by `radrep cache`."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from radrep.atomic import cache_folder, remove_tree
from radrep.json_text import load_json
from radrep.training.features.entry import INDEX
from radrep.weights.archive import BUNDLES

MODELS = {"language_models": "language model", BUNDLES: "bundle"}  # folders of the cache


@dataclass(frozen=True)
class CachedFeatures:
    """One entry of the cache, for showing: its folder, data and sizes, bytes on disk."""

    folder: Path
    about: dict[str, object]
    num_bytes: int


def list_cache() -> list[CachedFeatures]:
    """Every entry of features, oldest first."""
    found = []
    for folder in cache_folder().glob("features/*"):
        with suppress(OSError):  # it goes while this lists
            found.append((folder.stat().st_mtime, folder))
    return [CachedFeatures(each, _about(each), _num_bytes(each)) for _, each in sorted(found)]


def _about(folder: Path) -> dict[str, object]:
    try:
        about = load_json((folder / INDEX).read_bytes())["about"]
        return {"data": str(about["data"]), "images": about["images"]}
    except FileNotFoundError:
        return {"data": "unfinished", "images": None}
    except (OSError, ValueError, KeyError, TypeError):
        return {"data": "cannot be read", "images": None}


def list_models(name: str) -> list[tuple[Path, int]]:
    """The converted language models, or unpacked bundles, of the cache, with bytes on disk."""
    return [(p, _num_bytes(p)) for p in sorted(cache_folder().glob(f"{name}/*/"))]


def clear_cache() -> tuple[int, list[OSError]]:
    """Remove the whole cache; the bytes freed, and the errors of what could not be removed."""
    freed, errors = 0, list[OSError]()
    for name in ("features", *MODELS, "locks"):
        folder = cache_folder() / name
        before = _num_bytes(folder)
        errors += remove_tree(folder)
        freed += before - _num_bytes(folder)
    return freed, errors


def _num_bytes(folder: Path) -> int:
    num_bytes = 0
    for file in (folder, *folder.rglob("*")):
        with suppress(OSError):  # it goes while this counts, or is closed to us
            num_bytes += file.stat().st_size if file.is_file() else 0
    return num_bytes
