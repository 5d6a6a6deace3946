"""Rad-ReStruct's structured reports, in its layout and with our own content."""

import json
from pathlib import Path

import pytest

from radrep.errors import DataError
from radrep.preparation.sources.iu_xray.rad_restruct import RadReStruct

# Area -> sub-area ("" for none) -> kind of topic -> topics.
TEMPLATE = {
    "foreign objects": {"": {"objects": ["foreign bodies", "stents", "sutures"]}},
    "respiratory system": {
        "lung": {
            "signs": ["density", "opacity"],
            "body_regions": ["costophrenic angle", "lung"],
            "diseases": ["calcified granuloma", "mass", "pulmonary atelectasis"],
        },
        "pleura": {"signs": ["thickening"], "diseases": ["pleural effusion", "pneumothorax"]},
    },
    "cardiovascular system": {"": {"diseases": ["cardiomegaly", "heart failure"]}},
    "skeletal system": {"": {"diseases": ["fractures, bone"]}},
    "mediastinum": {"": {"signs": ["opacity"], "infos": []}},
}
INFOS = {"degree": {"answer_type": "single_choice", "options": ["mild", "no selection"]}}


def structured(*present: str) -> list[dict]:
    """A report whose named topics, "lung/opacity", have an instance, or two if named twice."""

    def of(area: str, topic: str) -> list[dict]:
        return [{"degree": ["no selection"]}] * present.count(f"{area}/{topic}")

    def kinds(area: str, topics: dict) -> dict:
        found = {
            kind: {name: {"infos": INFOS, "instances": of(area, name)} for name in names}
            for kind, names in topics.items()
        }
        if "infos" in found:
            found["infos"] = INFOS | {"instances": of(area, "infos")}
        return found

    report = []
    for area, parts in TEMPLATE.items():
        if "" in parts:
            report.append({"area": area, **kinds(area, parts[""])})
        else:
            sub_areas = {name: kinds(name, topics) for name, topics in parts.items()}
            report.append({"area": area, "sub_areas": sub_areas})
    return report


def write_structured(folder: Path, reports: dict[int, list[dict]]) -> Path:
    """A clone of Rad-ReStruct with reports by number."""
    new_reports = folder / "data/radrestruct/new_reports"
    new_reports.mkdir(parents=True)
    for number, report in reports.items():
        (new_reports / f"{number}.json").write_text(json.dumps(report))
    return folder


def present(labels: dict[str, int]) -> set[str]:
    assert set(labels.values()) <= {0, 1}
    return {topic for topic, value in labels.items() if value}


def test_a_topic_is_there_where_it_has_an_instance(tmp_path: Path) -> None:
    named = ("lung/opacity", "lung/opacity", "pleura/pleural effusion", "mediastinum/infos")
    clone = write_structured(tmp_path, {1000: structured(*named)})
    labels = RadReStruct(clone).labels("CXR1000_IM-0003-1001")
    assert present(labels) == set(named)
    assert len(labels) == 19, "every topic of the template, and normal"
    assert labels["mediastinum/opacity"] == 0, "a topic is one of its area"
    assert RadReStruct(clone / "data/radrestruct").labels("CXR1000") == labels
    assert RadReStruct(clone).labels("CXR1001_IM-0004") == {}


@pytest.mark.parametrize(
    ("topics", "normal"),
    [
        ((), 1),
        (("foreign objects/stents", "foreign objects/sutures"), 1),
        (("foreign objects/foreign bodies",), 0),
        (("lung/calcified granuloma",), 0),
        (("foreign objects/stents", "mediastinum/infos"), 0),
    ],
)
def test_a_report_is_normal_beside_devices_only(
    tmp_path: Path, topics: tuple[str, ...], normal: int
) -> None:
    clone = write_structured(tmp_path, {7: structured(*topics)})
    assert RadReStruct(clone).labels("CXR7_IM-2263")["normal"] == normal


def test_a_folder_of_another_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train_qa_pairs").mkdir()
    (tmp_path / "new_reports").mkdir()
    with pytest.raises(DataError, match=r"no folder of Rad-ReStruct: expected new_reports/"):
        RadReStruct(tmp_path)


def test_ids_of_another_data_set_are_refused(tmp_path: Path) -> None:
    clone = write_structured(tmp_path, {7: structured()})
    for study in ("7", "s50414267", "CXRx_IM-1", "XCXR7_IM-2263"):
        with pytest.raises(DataError, match=rf"study '{study}' has no id of IU X-Ray"):
            RadReStruct(clone).labels(study)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[", "no structured report"),
        (b"{}", "no topic"),
        (b"7", "no structured report"),
        (b'[["Is there an opacity?", ["no"], []]]', "no structured report"),
        (b'[{"area": "lung", "signs": {"opacity": {"infos": {}}}}]', "KeyError: 'instances'"),
        (b'[{"area": "lung", "signs": {"opacity": {"instances": 2}}}]', "lung/opacity are no list"),
        (b"\xff\xfe[", "no structured report"),
        (b'[{"area": "\\ud800", "signs": {"opacity": {"instances": []}}}]', "no structured report"),
        (b"[" * 200 + b"]" * 200, "nested more than 100 levels"),
        (b" " * 1_000_001, "more than 1 MB"),
    ],
)
def test_a_file_of_another_layout_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    clone = write_structured(tmp_path, {7: structured()})
    file = clone / "data/radrestruct/new_reports/7.json"
    file.write_bytes(content)
    with pytest.raises(DataError, match=problem) as error:
        RadReStruct(clone).labels("CXR7_IM-2263")
    assert str(error.value).startswith(str(file))
