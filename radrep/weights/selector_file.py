"""The file of a fitted selection, beside the weights whose encoder it was fitted on."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from radrep.errors import CheckpointError
from radrep.guidance.selection import ReportSelector
from radrep.weights.pretrained import read_weights
from radrep.weights.run_folder import WEIGHTS

SELECTION = "selection.safetensors"
_ARRAYS = ("mean", "scale", "basis", "loadings", "offset")
_HALF = ("basis",)  # nearly all of the file


def save_selector(folder: Path, selector: ReportSelector) -> None:
    """Write a selector into the folder of its checkpoint, whole or not at all."""
    arrays = {
        name: np.ascontiguousarray(
            getattr(selector, name), np.float16 if name in _HALF else np.float32
        )
        for name in _ARRAYS
    }
    values = {f.name: getattr(selector, f.name) for f in fields(selector) if f.name not in _ARRAYS}
    about = json.dumps(values, ensure_ascii=False)
    partial = folder / f".{SELECTION}.{os.getpid()}.partial"
    try:
        with partial.open("wb") as file:
            sums = {"sha256": _hash(arrays, about), "weights_sha256": _hash_file(folder / WEIGHTS)}
            file.write(save(arrays, {"about": about, **sums}))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, folder / SELECTION)
    except OSError as error:
        raise CheckpointError(f"{folder / SELECTION} could not be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def has_selector(folder: Path) -> bool:
    """Whether a checkpoint has a selector that can be read."""
    try:
        read_selector(folder)
    except CheckpointError:
        return False
    return True


def read_selector(folder: Path) -> ReportSelector:
    """The selector of a checkpoint; raise CheckpointError if it has none, or a broken one."""
    path = folder / SELECTION
    again = "fit it with: radrep train RUN --resume, where decode.select is not null"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {SELECTION}, which decode.method: select needs; {again}"
        )
    tensors, sums = read_weights(path)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    about = sums.get("about", "")
    if set(arrays) != set(_ARRAYS) or sums.get("sha256") != _hash(arrays, about):
        raise CheckpointError(f"{path} is damaged: its checksum is wrong; remove it and {again}")
    if sums.get("weights_sha256") != _hash_file(folder / WEIGHTS):
        raise CheckpointError(
            f"{path} was fitted on other weights than {WEIGHTS} beside it; remove it and {again}"
        )
    values: dict[str, Any] = json.loads(about)
    values |= {name: array.astype(np.float32) for name, array in arrays.items()}
    return ReportSelector(**values | {"pool": tuple(values["pool"])})


def _hash(arrays: Mapping[str, np.ndarray], about: str) -> str:
    digest = hashlib.sha256(about.encode())
    for name in _ARRAYS:
        digest.update(f"{name} {arrays[name].shape} {arrays[name].dtype}".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
