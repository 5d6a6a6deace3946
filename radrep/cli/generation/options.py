"""The options of radrep generate, checked before a model is loaded."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from radrep.errors import RadrepError

if TYPE_CHECKING:
    from radrep.inference.films import StudyFiles


def decode_changes(
    options: Mapping[str, object], sensitivity: Sequence[str], threshold: Sequence[str]
) -> list[str]:
    """The options as --set of decode."""
    typed = [f"decode.{key}={value}" for key, value in options.items() if value is not None]
    return typed + _operating_point(sensitivity, threshold)


def check_documents(formats: Sequence[str], out: Path | None) -> None:
    """Raise RadrepError for documents that cannot be written."""
    from radrep.interop.formats import check_formats

    check_formats(formats)
    if formats and out is None:
        raise RadrepError("--format writes documents into a folder: add --out DIR")


def read_texts(
    indication: str | None, comparison: str | None, prior_report: Path | None
) -> dict[str, str]:
    """The texts of a study's context, by data.context, none empty."""
    texts = {"indication": indication, "comparison": comparison}
    if prior_report is not None:
        texts["prior_report"] = _read_text(prior_report)
    return {name: text for name, text in texts.items() if text}


def with_context(
    given: Sequence["StudyFiles"], texts: Mapping[str, str], prior: Sequence[Path], out: Path | None
) -> "StudyFiles":
    """The one study that is given, with its context."""
    if len(given) > 1 or out is not None:
        raise RadrepError(
            "--indication, --comparison, --prior-report and --prior are of one study: give its "
            "files alone, with --single-study for several views, and leave --out out; for a folder "
            "give a table with columns of these names: --studies TABLE"
        )
    return replace(given[0], texts=texts, prior=tuple(prior))


def _operating_point(sensitivity: Sequence[str], threshold: Sequence[str]) -> list[str]:
    """The options as --set of decode.edit."""
    typed = []
    for key, option, values in (
        ("sensitivity", "--sensitivity", sensitivity),
        ("thresholds", "--threshold", threshold),
    ):
        found: dict[str, float] = {}
        for value in values:
            name, _, number = value.rpartition("=")
            try:
                found[name.strip()] = float(number)
            except ValueError:
                raise RadrepError(f"{option} takes a number from 0 to 1, got '{value}'") from None
        if "" in found and (len(found) > 1 or key == "thresholds"):
            raise RadrepError(f"{option} names a finding, as in 'Pleural Effusion=0.3'")
        if found:
            typed.append(f"decode.edit.{key}={json.dumps(found.get('', found))}")
    return typed


def check_options(
    images: Sequence[Path],
    projections: Sequence[str],
    out: Path | None,
    studies: Path | None,
    group: str,
    single_study: bool,
    heatmap: Path | None,
) -> None:
    """Raise RadrepError for options that do not go together."""
    folders = [path for path in images if path.is_dir()]
    if folders and out is None:
        raise RadrepError(
            f"{folders[0]} is a folder; give an image file, or add --out DIR to write the reports "
            "of the folder's studies"
        )
    if folders and len(images) > 1:
        raise RadrepError(f"give one folder, or files alone; got {len(images)} with {folders[0]}")
    if folders and (projections or single_study):
        raise RadrepError("--projection and --single-study are for files, and a folder was given")
    if not folders and (studies or group != "auto"):
        raise RadrepError("--studies and --group are for a folder, and files were given")
    if group not in ("auto", "folder", "file"):
        raise RadrepError(f"--group must be auto, folder or file, got '{group}'")
    if studies and group != "auto":
        raise RadrepError("--studies names the studies; leave --group out")
    if heatmap and out:
        raise RadrepError("--heatmap draws one study to a file of its own; leave --out out")


def _read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise RadrepError(f"{path} cannot be read as UTF-8 text: {error}") from error
    if not text.strip():
        raise RadrepError(f"{path} is empty; give the text of the prior report, or leave it out")
    return text


def group_files(
    images: Sequence[Path], projections: Sequence[str], *, single_study: bool
) -> list["StudyFiles"]:
    """The studies that are given: each file one, or all files one."""
    from radrep.inference.films import StudyFiles

    if unknown := set(projections) - {"frontal", "lateral"}:
        raise RadrepError(f"--projection must be frontal or lateral, got '{unknown.pop()}'")
    if projections and len(projections) != len(images):
        raise RadrepError(
            f"--projection was given {len(projections)} times for {len(images)} files; give one "
            "for each file, in their order, or none"
        )
    if single_study:
        return [StudyFiles(tuple(images), tuple(projections))]
    return [StudyFiles((p,), tuple(projections[i : i + 1])) for i, p in enumerate(images)]
