"""FHIR bundles, read back by the models of fhir.resources."""

import base64
import json
from typing import Any

import pytest

from radrep.interop.document import NOTICE, Document
from tests.interop.clock import shift_clock
from tests.interop.rows import EDEMA, EFFUSION, FRACTURE, PNEUMOTHORAX, check_row, make_row

pytest.importorskip("fhir.resources", reason="fhir.resources is not installed: radrep[fhir]")

IDENTITY = {"StudyInstanceUID": "1.2.3", "PatientID": "P1", "PatientName": "Doe^Jane"}


def read_bundle(content: bytes) -> dict[str, list[dict[str, Any]]]:
    """The resources of a bundle by their kind, and every reference in it checked."""
    from fhir.resources.R4B.bundle import Bundle

    Bundle.model_validate_json(content)
    bundle = json.loads(content)
    urls = {entry["fullUrl"] for entry in bundle["entry"]}
    assert len(urls) == len(bundle["entry"])
    text = content.decode()
    for reference in [part.split('"')[1] for part in text.split('"reference": ')[1:]]:
        assert reference in urls
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in bundle["entry"]:
        found.setdefault(entry["resource"]["resourceType"], []).append(entry["resource"])
    return found


def make_bundle(*findings: dict[str, Any], identity: Any = IDENTITY) -> bytes:
    from radrep.interop.fhir import write_fhir

    row = make_row(*findings)
    check_row(row)
    return write_fhir(Document(row, [identity]))


def test_the_report_is_preliminary_by_a_device_and_not_for_clinical_use() -> None:
    content = make_bundle(EFFUSION)
    found = read_bundle(content)
    (report,), (device,), (provenance,) = (
        found[kind] for kind in ("DiagnosticReport", "Device", "Provenance")
    )
    assert report["status"] == "preliminary"
    assert report["meta"]["security"][0]["code"] == "AIAST"
    assert report["conclusion"] == f"Small left effusion. <No> pneumothorax & ?.\n\n{NOTICE}"
    assert NOTICE.endswith("Not for clinical use.")
    assert "&lt;No&gt; pneumothorax &amp; ?." in report["text"]["div"]
    whole = base64.b64decode(report["presentedForm"][0]["data"]).decode()
    assert whole == report["conclusion"] + "\n"
    uid = report["imagingStudy"][0]["identifier"]
    assert uid == {"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}
    assert device["deviceName"][0]["name"] == "radrep"
    assert device["identifier"][0]["value"] == "ab" * 32
    assert provenance["recorded"] == report["issued"] == "2026-11-30T06:00:00Z"
    assert "Doe" not in content.decode()
    assert "P1" not in content.decode()


def test_each_finding_is_an_observation() -> None:
    bundle = read_bundle(make_bundle(EFFUSION, PNEUMOTHORAX, FRACTURE, EDEMA))
    effusion, pneumothorax, fracture, edema = bundle["Observation"]
    assert len(bundle["DiagnosticReport"][0]["result"]) == 4
    assert effusion["code"]["coding"][0]["code"] == "60046008"
    assert effusion["valueCodeableConcept"]["coding"][0]["display"] == "Present"
    parts = {part["code"]["text"]: part for part in effusion["component"]}
    assert parts["side"]["valueCodeableConcept"]["text"] == "left"
    assert parts["size"]["valueString"] == "small"
    assert parts["predicted probability"]["valueQuantity"]["value"] == 0.9
    assert parts["sentence"]["valueString"] == "Small left effusion."
    assert parts["origin of the sentence"]["valueString"] == "inserted"
    assert parts["place"]["valueString"].startswith("Grad-CAM strongest at 25% from the left")
    assert pneumothorax["valueCodeableConcept"]["coding"][0]["code"] == "121054"
    assert "valueCodeableConcept" not in fracture
    assert fracture["dataAbsentReason"]["text"] == "not mentioned in the report"
    assert "coding" not in fracture["code"]
    assert edema["valueCodeableConcept"] == {"text": "uncertain"}
    for observation in bundle["Observation"]:
        assert observation["status"] == "preliminary"
        assert observation["note"] == [{"text": NOTICE}]
        assert observation["device"]


def test_a_report_without_findings_or_uids_is_whole() -> None:
    (report,) = read_bundle(make_bundle(identity=None))["DiagnosticReport"]
    assert "result" not in report
    assert "imagingStudy" not in report


def test_the_same_report_gives_the_same_bytes_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = make_bundle(EFFUSION)
    shift_clock(monkeypatch)
    assert make_bundle(EFFUSION) == now
