"""A report as a FHIR R4 bundle: DiagnosticReport, an Observation for each finding, the device.

Checked by the models of R4B, in which these resources are those of R4. The patient is not named: a
receiver finds the study by its UID.
"""

import base64
from collections.abc import Mapping
from html import escape
from typing import Any

from radrep import __version__
from radrep.interop.document import (
    NOTICE,
    SNOMED,
    SNOMED_SIDES,
    Document,
    describe_place,
    plain,
    report_text,
)

_TERMS = "http://terminology.hl7.org/CodeSystem"
_AI = {
    "system": f"{_TERMS}/v3-ObservationValue",
    "code": "AIAST",
    "display": "Artificial Intelligence asserted",
}
_DCM, _SCT = "http://dicom.nema.org/resources/ontology/DCM", "http://snomed.info/sct"
_BREAK = "\n\n"  # between sections
_STATES = {"positive": ("121053", "Present"), "negative": ("121054", "Absent")}  # of DICOM


def write_fhir(document: Document) -> bytes:
    """The bundle as JSON."""
    from fhir.resources.R4B.bundle import Bundle

    row = document.row
    urls = {
        "report": f"urn:uuid:{document.uuid('report')}",
        "device": f"urn:uuid:{document.device()}",
    }
    findings = [
        (f"urn:uuid:{document.uuid(f'finding {n}')}", finding)
        for n, finding in enumerate(row["findings"])
    ]
    resources = {
        urls["report"]: _report(document, [url for url, _ in findings]),
        **{url: _observation(finding, row["time"], urls["device"]) for url, finding in findings},
        urls["device"]: _device(row["model"]),
        f"urn:uuid:{document.uuid('provenance')}": _provenance(row["time"], urls),
    }
    bundle = Bundle.model_validate(
        {
            "resourceType": "Bundle",
            "type": "collection",
            "timestamp": row["time"],
            "entry": [{"fullUrl": url, "resource": each} for url, each in resources.items()],
        }
    )
    return (bundle.model_dump_json(indent=1) + "\n").encode()


def _report(document: Document, observations: list[str]) -> dict[str, Any]:
    row, identity = document.row, document.identity
    text = report_text(row)
    conclusion = plain(row["sections"]["impression"] or row["report"])
    report: dict[str, Any] = {
        "resourceType": "DiagnosticReport",
        "meta": {"security": [_AI]},
        "text": {"status": "generated", "div": _narrative(text, row["images"])},
        "identifier": [{"value": plain(row["study"])}],
        "status": "preliminary",
        "category": [{"coding": [_coded(f"{_TERMS}/v2-0074", "RAD", "Radiology")]}],
        "code": {
            "coding": [_coded("http://loinc.org", "18748-4", "Diagnostic imaging study")],
            "text": "Chest radiograph report",
        },
        "issued": row["time"],
        "result": [{"reference": url} for url in observations],
        "conclusion": f"{conclusion}\n\n{NOTICE}",
        "presentedForm": [
            {
                "contentType": "text/plain; charset=utf-8",
                "data": base64.b64encode(f"{text}\n\n{NOTICE}\n".encode()).decode(),
                "title": NOTICE,
            }
        ],
    }
    if identity is not None:
        uid = {"system": "urn:dicom:uid", "value": f"urn:oid:{identity['StudyInstanceUID']}"}
        report["imagingStudy"] = [{"type": "ImagingStudy", "identifier": uid}]
    if not observations:
        del report["result"]
    return report


def _observation(finding: Mapping[str, Any], time: str, device: str) -> dict[str, Any]:
    name, state = finding["observation"], finding["state"]
    coding = [_coded(_SCT, SNOMED[name], name)] if name in SNOMED else []
    value: dict[str, Any] = {"text": state}
    if state in _STATES:
        value["coding"] = [_coded(_DCM, *_STATES[state])]
    observation: dict[str, Any] = {
        "resourceType": "Observation",
        "meta": {"security": [_AI]},
        "status": "preliminary",
        "category": [{"coding": [_coded(f"{_TERMS}/observation-category", "imaging", "Imaging")]}],
        "code": {"text": name, **({"coding": coding} if coding else {})},
        "issued": time,
        "device": {"reference": device},
        "note": [{"text": NOTICE}],
        "component": list(_components(finding)),
    }
    if state == "not mentioned":  # what a discriminator predicts
        observation["dataAbsentReason"] = {"text": "not mentioned in the report"}
    else:
        observation["valueCodeableConcept"] = value
    if not observation["component"]:
        del observation["component"]
    return observation


def _components(finding: Mapping[str, Any]) -> Any:
    if side := finding["side"]:
        coding = [_coded(_SCT, SNOMED_SIDES[side], side)]
        concept = {"coding": coding, "text": side}
        yield {"code": {"text": "side"}, "valueCodeableConcept": concept}
    if finding["size"]:
        yield {"code": {"text": "size"}, "valueString": plain(finding["size"])}
    if finding["probability"] is not None:
        quantity = {
            "value": round(finding["probability"], 4),
            "unit": "1",
            "system": "http://unitsofmeasure.org",
            "code": "1",
        }
        yield {"code": {"text": "predicted probability"}, "valueQuantity": quantity}
    if finding["sentence"]:
        yield {"code": {"text": "sentence"}, "valueString": plain(finding["sentence"])}
        yield {"code": {"text": "origin of the sentence"}, "valueString": finding["origin"]}
    if finding["place"]:
        place = plain(describe_place(finding["place"]))
        yield {"code": {"text": "place"}, "valueString": place}


def _device(model: str) -> dict[str, Any]:
    return {
        "resourceType": "Device",
        "identifier": [{"type": {"text": "SHA-256 of the model"}, "value": model}],
        "deviceName": [{"name": "radrep", "type": "manufacturer-name"}],
        "version": [{"value": __version__}],
        "note": [{"text": NOTICE}],
    }


def _provenance(time: str, urls: Mapping[str, str]) -> dict[str, Any]:
    return {
        "resourceType": "Provenance",
        "target": [{"reference": urls["report"]}],
        "recorded": time,
        "agent": [{"who": {"reference": urls["device"]}}],
    }


def _coded(system: str, code: str, display: str) -> dict[str, str]:
    return {"system": system, "code": code, "display": display}


def _narrative(text: str, images: list[str]) -> str:
    films = escape(plain(", ".join(images)))
    return (
        f'<div xmlns="http://www.w3.org/1999/xhtml"><p><b>{NOTICE}</b></p>'
        f"<p>{escape(text).replace(_BREAK, '</p><p>')}</p><p>Images: {films}</p></div>"
    )
