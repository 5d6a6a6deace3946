"""Rows of reports, against the schema that the package has."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

import pytest

SCHEMA = json.loads(files("radrep.interop").joinpath("report.schema.json").read_text())


@cache
def _validator() -> Any:
    module = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    module.Draft202012Validator.check_schema(SCHEMA)
    return module.Draft202012Validator(SCHEMA)


def check_row(row: dict[str, Any]) -> None:
    """Fail with the first problem of a row."""
    _validator().validate(row)


PLACE = {"image": "a & <b>.dcm", "x": 0.25, "y": 0.75, "map": "grad_cam", "over_mean": 3.5}


def make_finding(observation: str, state: str = "positive", **more: Any) -> dict[str, Any]:
    blank = dict.fromkeys(("side", "size", "probability", "place"))
    return {"observation": observation, "state": state, "sentence": "", "origin": ""} | blank | more


def make_row(*findings: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A row as of a folder of reports."""
    sentence = {"text": "Small left effusion.", "origin": "inserted"}
    return {
        "study": "1.2.3",
        "images": ["a & <b>.dcm"],
        "projections": ["frontal"],
        "report": "Small left effusion. <No> pneumothorax & \x1b.",
        "sections": {
            "findings": "Small left effusion. <No> pneumothorax & \x1b.",
            "impression": None,
        },
        "context": [],
        "made": "decoded, edited",
        "sentences": [
            sentence
            | {"observation": "Pleural Effusion", "probability": 0.9, "section": "findings"},
            {"text": "<No> pneumothorax & \x1b.", "origin": "generated", "observation": ""}
            | {"probability": None, "section": "findings"},
        ],
        "removed": ["Clear."],
        "findings": list(findings),
        "probabilities": dict.fromkeys(SCHEMA["properties"]["probabilities"]["required"]),
        "unused": [],
        "model": "ab" * 32,
        "time": "2026-11-30T06:00:00Z",
    } | more


EFFUSION = make_finding(
    "Pleural Effusion",
    side="left",
    size="small",
    probability=0.9,
    place=PLACE,
    sentence="Small left effusion.",
    origin="inserted",
)
PNEUMOTHORAX = make_finding(
    "Pneumothorax", "negative", sentence="<No> pneumothorax & \x1b.", origin="generated"
)
FRACTURE = make_finding("Fracture", "not mentioned", probability=0.8)
EDEMA = make_finding("Edema", "uncertain", sentence="Edema?", origin="generated")
