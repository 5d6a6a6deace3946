"""Reports in the form of ReXrank (https://rexrank.ai): what its evaluation script reads.

    {"<study>": {"image_path": [...], "key_image_path", "frontal_lateral": [...], "context",
                 "section_findings", "section_impression", "report", "split", "model_prediction"}}

The fields are those of data/READMD.md and of the JSON files beside it in rajpurkarlab/ReXrank;
example_files/evaluation_script.md scores model_prediction against "Findings: ... Impression: ...".
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from radrep.atomic import atomic_write_text
from radrep.data.study import Study
from radrep.sections import MARKER, SECTIONS, split_sections

_CONTEXT = ("indication", "comparison")
# How ReXrank names the studies of a source, where radrep does otherwise.
_MIMIC, _CHEXPERT = "mimic_cxr", "chexpert_plus"


def write_rexrank(file: Path, reports: Iterable[tuple[Study, str]], target: str) -> None:
    """Write studies and the reports that a model with this target wrote for them."""
    rows = {study_key(study): _row(study, text, target) for study, text in reports}
    atomic_write_text(file, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def study_key(study: Study) -> str:
    """ReXrank's name of a study: "50051329" for "s50051329", "patient1_study1" of CheXpert Plus."""
    if study.source == _MIMIC:
        return study.id.removeprefix("s")
    return study.id.replace("/", "_") if study.source == _CHEXPERT else study.id


def _row(study: Study, text: str, target: str) -> dict[str, Any]:
    names = [image.name for image in study.images]
    frontal = [image.name for image in study.images if image.projection == "frontal"]
    findings, impression = (study.sections.get(name) or None for name in SECTIONS)
    context = [(name, study.sections.get(name)) for name in _CONTEXT]
    return {
        "image_path": names,
        "key_image_path": (frontal or names)[0],
        "frontal_lateral": [image.projection.capitalize() for image in study.images],
        "context": " ".join(f"{name.capitalize()}: {given}" for name, given in context if given),
        "section_findings": findings,
        "section_impression": impression,
        "report": f"Findings: {findings} Impression: {impression}",
        "split": study.split,
        "model_prediction": _prediction(text, target),
    }


def _prediction(text: str, target: str) -> str:
    if MARKER in text:
        parts = split_sections(text)
        return " ".join(f"{name.capitalize()}: {parts[name]}" for name in SECTIONS)
    return f"{target.capitalize()}: {text}" if target in SECTIONS else text
