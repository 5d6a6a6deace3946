"""What is fitted for a checkpoint, in files beside its weights: selection, editing, consensus."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from radrep.atomic import atomic_file
from radrep.errors import CheckpointError
from radrep.guidance.consensus import DocumentFrequencies
from radrep.guidance.editing import ReportEditor, SentenceBank
from radrep.guidance.labels import LabelPredictor
from radrep.guidance.selection import ReportSelector
from radrep.json_text import load_json
from radrep.weights.files import add_checksum, find_change, read_weights
from radrep.weights.run_folder import run_dir

SELECTION = "selection.safetensors"
EDITING = "editing.safetensors"
CONSENSUS = "consensus.safetensors"
_OF_SELECTOR = ("mean", "scale", "basis", "loadings", "offset")
_OF_PREDICTOR = ("mean", "scale", "weights", "slope", "bias", "known", "found")
_HALF = ("basis",)  # nearly all of the file


def save_selector(folder: Path, selector: ReportSelector) -> None:
    """Write a selector into the folder of its checkpoint, whole or not at all."""
    arrays = {name: getattr(selector, name) for name in _OF_SELECTOR}
    values = {f.name: getattr(selector, f.name) for f in fields(selector) if f.name not in arrays}
    _save(folder / SELECTION, arrays, values)


def read_selector(folder: Path) -> ReportSelector:
    """The selector of a checkpoint; raise CheckpointError if it has none, or a broken one."""
    arrays, values = _read(folder / SELECTION, _OF_SELECTOR, "select", "decode.method: select")
    return ReportSelector(**values | arrays | {"pool": tuple(values["pool"])})


def save_editor(folder: Path, editor: ReportEditor) -> None:
    """Write an editor into the folder of its checkpoint, whole or not at all."""
    arrays = {name: getattr(editor.predictor, name) for name in _OF_PREDICTOR}
    values = {
        "names": editor.predictor.names,
        "present": dict(editor.bank.present),
        "absent": [[sorted(names), text] for names, text in editor.bank.absent.items()],
    }
    _save(folder / EDITING, arrays, values)


def read_editor(folder: Path) -> ReportEditor:
    """The editor of a checkpoint; raise CheckpointError if it has none, or a broken one."""
    arrays, values = _read(folder / EDITING, _OF_PREDICTOR, "edit", "decode.edit")
    absent = {frozenset(names): text for names, text in values["absent"]}
    return ReportEditor(
        LabelPredictor(names=tuple(values["names"]), **arrays),
        SentenceBank(values["present"], absent),
    )


def save_frequencies(folder: Path, frequencies: DocumentFrequencies) -> None:
    """Write document frequencies into the folder of a checkpoint, whole or not at all."""
    counts = np.array(list(frequencies.counts.values()), np.float32)
    values = {"num_reports": frequencies.num_reports, "ngrams": list(frequencies.counts)}
    _save(folder / CONSENSUS, {"counts": counts}, values)


def read_frequencies(folder: Path) -> DocumentFrequencies:
    """Those of a checkpoint; raise CheckpointError if it has none, or broken ones."""
    needs = "decode.method: consensus"
    arrays, values = _read(folder / CONSENSUS, ("counts",), "select", needs)
    counts = map(int, arrays["counts"].tolist())
    return DocumentFrequencies(
        values["num_reports"], dict(zip(values["ngrams"], counts, strict=True))
    )


def save_guidance(
    folder: Path,
    selector: ReportSelector | None,
    editor: ReportEditor,
    frequencies: DocumentFrequencies,
) -> None:
    """Write all that was fitted for a checkpoint into its folder."""
    save_editor(folder, editor)
    save_frequencies(folder, frequencies)
    if selector is not None:
        save_selector(folder, selector)


def has_editor(folder: Path) -> bool:
    """Whether a checkpoint has the file of an editor, good or bad."""
    return (folder / EDITING).is_file()


def has_guidance(folder: Path) -> bool:
    """Whether a checkpoint has all files, of its own weights."""
    try:
        read_selector(folder)
        read_editor(folder)
        read_frequencies(folder)
    except CheckpointError:
        return False
    return True


def _save(path: Path, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
    arrays = {
        name: np.ascontiguousarray(array, np.float16 if name in _HALF else np.float32)
        for name, array in arrays.items()
    }
    about = json.dumps(values, ensure_ascii=False)
    try:
        with atomic_file(path) as partial:
            partial.write_bytes(save(arrays, {"about": about}))
        add_checksum(path)
    except OSError as error:
        raise CheckpointError(f"{path} could not be written: {error}") from error


def _read(
    path: Path, names: tuple[str, ...], section: str, needs: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    run = run_dir(path.parent)
    again = f"fit it with: radrep train {run} --resume, where decode.{section} is not null"
    if not path.is_file():
        raise CheckpointError(f"{path.parent} has no {path.name}, which {needs} needs; {again}")
    if change := find_change(path.parent, (path.name,)):
        raise CheckpointError(
            f"{path.parent} cannot be read: {change}. Remove the file and {again}"
        )
    tensors, about = read_weights(path, verified=True)
    if set(tensors) != set(names) or "about" not in about:
        raise CheckpointError(f"{path} is of another radrep; remove it and {again}")
    arrays = {name: tensor.numpy().astype(np.float32) for name, tensor in tensors.items()}
    return arrays, load_json(about["about"])
