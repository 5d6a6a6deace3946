"""Tables of public data sets as their owners ship them, with invented rows."""

import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radrep.errors import DataError
from radrep.preparation.sources.base import split_by_hash
from radrep.preparation.sources.folder.source import FolderSource


def draw(raw: Path, *names: str) -> None:
    for seed, name in enumerate(names):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 50)).astype(np.uint8)
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(raw / name, format="PNG")


def write(path: Path, header: str, *rows: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return path


def notes(source: FolderSource) -> str:
    return " ".join(source.notes)


CHEXPERT = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Cardiomegaly,Edema"


def chexpert(raw: Path, root: str, folders: dict[str, int]) -> list[str]:
    """Two studies of two views for each patient, by split, and the rows of the table."""
    rows = []
    for split, num in folders.items():
        for patient in range(num):
            for study in (1, 2):
                for view, side in ((1, "frontal"), (2, "lateral")):
                    number = patient + 100 * (split == "valid")
                    name = f"{split}/patient{number:05d}/study{study}/view{view}_{side}.jpg"
                    draw(raw, name)
                    rows.append(f"{root}/{name},Male,{50 + patient},{side.title()},AP,,1.0,-1.0")
    return rows


@pytest.mark.parametrize("root", ["CheXpert-v1.0-small", "CheXpert-v1.0", "/data/CheXpert-v1.0"])
@pytest.mark.parametrize("inside", ["", "CheXpert-v1.0-small"])
def test_chexperts_patients_and_studies_are_those_of_its_paths(tmp_path, root, inside):
    rows = chexpert(tmp_path / inside, root, {"train": 6})
    source = FolderSource(tmp_path, write(tmp_path / "train.csv", CHEXPERT, *rows))
    studies = list(source)
    assert len(studies) == 12
    for study in studies:
        assert study.id.startswith(f"{study.patient_id}/study")
        assert study.split == split_by_hash(study.patient_id, 0.8, 0.1)
        assert [image.projection for image in study.images] == ["frontal", "lateral"]
        assert study.labels == {"Cardiomegaly": 1, "Edema": -1}
        assert all(image.read(256).shape == (40, 50) for image in study.images)
    assert "patient00000/study1" in notes(source)
    assert "Sex ('Male'), Age ('50'), AP/PA ('AP'), No Finding (empty)" in notes(source)


def test_chexperts_train_and_valid_are_its_splits_in_one_table(tmp_path):
    rows = chexpert(tmp_path, "CheXpert-v1.0-small", {"train": 3, "valid": 2})
    source = FolderSource(tmp_path, write(tmp_path / "all.csv", CHEXPERT, *rows))
    splits = {study.patient_id: study.split for study in source}
    assert splits == {
        **dict.fromkeys(("patient00000", "patient00001", "patient00002"), "train"),
        **dict.fromkeys(("patient00100", "patient00101"), "val"),
    }
    assert "The splits are those that the folders are named after." in source.notes


def test_folders_without_a_table_name_patients_and_splits_too(tmp_path):
    chexpert(tmp_path, "", {"train": 2, "valid": 1})
    studies = list(FolderSource(tmp_path))
    assert [study.id for study in studies][:2] == ["patient00000/study1", "patient00000/study2"]
    assert [len(study.images) for study in studies] == [2] * 6
    assert [study.split for study in studies] == ["train"] * 4 + ["val"] * 2


PADCHEST = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,"
    "ViewPosition_DICOM,Projection,MethodProjection,Pediatric,PixelRepresentation_DICOM,ReportID,"
    "Report,MethodLabel,Labels,Localizations"
)


@pytest.mark.parametrize("folder", ["{}/", ""])
def test_padchests_table_gives_views_labels_and_reports(tmp_path, folder):
    rows = []
    for number in range(4):
        draw(tmp_path, f"{folder.format(number % 2)}1_{number}.png")
        view = "PA" if number % 2 == 0 else "L"
        rows.append(
            f"{number},1_{number}.png,{number % 2},20140915,study{number // 2},pat{number // 2},"
            f"1930,M,POSTEROANTERIOR,{view},Manual,No,{number % 2},{number},"
            "derrame pleural izquierdo .,"
            "Physician,\"['pleural effusion', 'kyphosis', 'normal']\",\"['loc left']\""
        )  # fmt: skip
    source = FolderSource(tmp_path, write(tmp_path / "PADCHEST.csv", PADCHEST, *rows))
    studies = list(source)
    assert [(study.id, study.patient_id) for study in studies] == [
        ("study0", "pat0"),
        ("study1", "pat1"),
    ]
    for study in studies:
        assert [image.projection for image in study.images] == ["frontal", "lateral"]
        assert study.sections == {"findings": "derrame pleural izquierdo ."}
        assert study.labels == dict.fromkeys(("pleural effusion", "kyphosis", "normal"), 1)
        assert all(image.read(256).shape == (40, 50) for image in study.images)
    assert "PixelRepresentation_DICOM" in notes(source)


def test_vindrs_boxes_of_one_image_are_one_study(tmp_path):
    names = [f"{number:032x}" for number in range(3)]
    draw(tmp_path, *(f"train/{name}.dicom" for name in names))
    rows = [
        f"{names[0]},R10,Nodule/Mass,10.5,0,30,40",
        f"{names[0]},R9,Cardiomegaly,1,1,1,1",
        f"{names[1]},R9,No finding,,,,",
        f"{names[2]},R9,Cardiomegaly,1,0,1,1",
    ]
    header = "image_id,rad_id,class_name,x_min,y_min,x_max,y_max"
    source = FolderSource(tmp_path, write(tmp_path / "annotations_train.csv", header, *rows))
    assert [study.labels for study in source] == [
        {"Nodule/Mass": -1, "Cardiomegaly": -1},  # each by one of two readers
        {"No finding": 1},
        {"Cardiomegaly": 1},
    ]
    assert len(source) == 3
    assert "rad_id names readers" in notes(source)


@pytest.mark.parametrize("form", ["names", "columns"])
@pytest.mark.parametrize("seed", range(6))
def test_of_several_readers_the_majority_decides(tmp_path, form, seed):
    drawn = random.Random(seed)
    draw(tmp_path, *(f"{k}.png" for k in range(8)))
    votes = {  # the readers of each image, and who of them marks an effusion
        k: [(f"R{r}", drawn.random() < 0.5) for r in range(drawn.randint(1, 4))] for k in range(8)
    }
    header = "image_id,rad_id,class_name"
    rows = [f"{k},{r},{'Effusion' if v else 'No finding'}" for k in votes for r, v in votes[k]]
    if form == "columns":
        header = "image_id,rad_ID,Effusion,No finding"
        rows = [f"{k},{r},{int(v)},{int(not v)}" for k in votes for r, v in votes[k]]
    drawn.shuffle(rows)
    source = FolderSource(tmp_path, write(tmp_path / "r.csv", header, *rows, *rows))
    assert len(source) == 8
    for study in source:
        marks = [v for _, v in votes[int(study.images[0].name)]]
        share = sum(marks) / len(marks)
        effusion = 1 if share > 0.5 else -1 if share == 0.5 else 0
        assert study.labels.get("Effusion", 0) == effusion
        assert study.labels.get("No finding", 0) == int(effusion == 0)


def test_no_finding_of_one_row_gives_way_to_a_finding_of_another(tmp_path):
    draw(tmp_path, "a.png", "b.png")
    for finding, value, normal in (("Edema", 1, 0), ("Edema", -1, 0), ("Support Devices", 1, 1)):
        header = f"image,study_id,No Finding,{finding}"
        table = write(tmp_path / "r.csv", header, "a.png,s,1,", f"b.png,s,,{value}")
        (study,) = FolderSource(tmp_path, table)
        assert study.labels == {"No Finding": normal, finding: value}


def test_rsnas_patients_name_the_images(tmp_path):
    draw(tmp_path, "stage_2_train_images/0004cfab.dcm", "stage_2_train_images/000db696.dcm")
    rows = ["0004cfab,,,,,0", "000db696,316.0,318.0,170.0,478.0,1", "000db696,1,1,1,1,1"]
    header = "patientId,x,y,width,height,Target"
    source = FolderSource(tmp_path, write(tmp_path / "labels.csv", header, *rows))
    assert [(s.patient_id, dict(s.labels), len(s.images)) for s in source] == [
        ("0004cfab", {"Target": 0}, 1),
        ("000db696", {"Target": 1}, 1),
    ]
    assert "No column names the images" in notes(source)
    write(tmp_path / "labels.csv", header, "elsewhere,,,,,0")
    with pytest.raises(DataError, match=r"no row with a column of images .* are patientId, x, y"):
        FolderSource(tmp_path)


def test_nihs_follow_up_and_sizes_are_no_findings(tmp_path):
    draw(tmp_path, *(f"images_00{k + 1}/images/0000000{k}_000.png" for k in range(3)))
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
    )
    rows = [
        f"0000000{k}_000.png,Effusion|Mass,{k % 2},{k},058Y,M,PA,2682,2749,0.143,0.143,"
        for k in range(3)
    ]
    source = FolderSource(tmp_path, write(tmp_path / "Data_Entry_2017.csv", header, *rows))
    for number, study in enumerate(source):
        assert study.labels == {"Effusion": 1, "Mass": 1}
        assert study.patient_id == str(number)
    assert "Follow-up # (1, 0 or -1)" in notes(source)


def test_covid_chestxrays_offsets_are_no_findings(tmp_path):
    draw(tmp_path, "images/a.png", "images/b.jpeg", "images/c.png")
    header = "patientid,offset,sex,age,finding,survival,view,modality,folder,filename,other"
    rows = [
        "2,0,M,65,Pneumonia/Viral/COVID-19,Y,PA,X-ray,images,a.png,",
        "2,1,M,65,No Finding,Y,AP Supine,X-ray,images,b.jpeg,",
        "4,0,F,,todo,,L,X-ray,images,c,",
        "5,0,F,,Unknown,,Axial,CT,volumes,d.nii.gz,",
    ]
    source = FolderSource(tmp_path, write(tmp_path / "metadata.csv", header, *rows))
    studies = list(source)
    assert studies[0].labels == {"Pneumonia/Viral/COVID-19": 1}
    assert [s.images[0].projection for s in studies[:3]] == ["frontal", "frontal", "lateral"]
    assert studies[2].images[0].read(256).shape == (40, 50)
    assert source._table.labels == ()
    assert "offset (1, 0 or -1)" in notes(source)
    assert "1 of 4 images of the table are not in the folder, the first volumes/d" in notes(source)


def test_mimic_cxrs_metadata_names_images_by_their_dicom_id(tmp_path):
    draw(
        tmp_path, "files/p10/p10000032/s50414267/02aa-1.jpg", "files/p10/p10000032/s50414267/1.jpg"
    )
    header = "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows"
    rows = ["02aa-1,10000032,50414267,CHEST (PA AND LAT),PA,3056", "1,10000032,50414267,,LATERAL,2"]
    source = FolderSource(tmp_path, write(tmp_path / "reports.csv", header, *rows))
    (study,) = source
    assert (study.id, study.patient_id) == ("50414267", "10000032")
    assert [image.projection for image in study.images] == ["frontal", "lateral"]


def rexrank(split: str) -> dict[str, object]:
    return {
        "image_path": ["CXR1/0.png", "CXR1/1.png"],
        "key_image_path": "CXR1/0.png",
        "report": "Findings: Heart large. Impression: Cardiomegaly.",
        "section_findings": "Heart large.",
        "section_impression": "Cardiomegaly.",
        "split": split,
        "frontal_lateral": ["Frontal", "Lateral"],
        "context": "Indication: Shortness of breath Comparison: None",
    }


@pytest.mark.parametrize("indent", [None, 4])
def test_rexranks_json_is_a_table(tmp_path, indent):
    draw(tmp_path, "CXR1/0.png", "CXR1/1.png")
    table = tmp_path / "ReXRank_valid.json"
    table.write_text(json.dumps({"CXR1_IM-0001": rexrank("val")}, indent=indent))
    (study,) = FolderSource(tmp_path, table)
    assert (study.id, study.split) == ("CXR1_IM-0001", "val")
    assert [image.projection for image in study.images] == ["frontal", "lateral"]
    sections = {"findings": "Heart large.", "impression": "Cardiomegaly."}
    before = {"indication": "Shortness of breath", "comparison": "None"}
    assert study.sections == sections | before
    row = rexrank("test")
    del row["section_findings"], row["section_impression"], row["context"]
    table.write_text(json.dumps([{"id": 7} | row], indent=indent))
    (study,) = FolderSource(tmp_path, table)
    assert (study.id, study.split, study.sections) == ("7", "test", sections)


def test_r2gens_annotation_is_a_table(tmp_path):
    draw(tmp_path, "images/1/0.png", "images/2/0.png")
    rows = {
        split: [{"id": f"{n}", "report": "Clear lungs.", "image_path": [f"{n}/0.png"]}]
        for n, split in ((1, "train"), (2, "test"))
    }
    table = tmp_path / "annotation.json"
    table.write_text(json.dumps(rows))
    studies = list(FolderSource(tmp_path, table))
    assert [(study.id, study.split) for study in studies] == [("1", "train"), ("2", "test")]


WORDS = ["NA", "nan", "NaN", "None", "NULL", "", "-", "n/a", "<NA>"]


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("yes", ["1", "1.0", "TRUE", "True"])
def test_words_for_nothing_are_blank_in_every_column(tmp_path, word, yes):
    draw(tmp_path, *(f"{k}.png" for k in range(3)))
    no = {"1": "0", "1.0": "0.0", "TRUE": "FALSE", "True": "False"}[yes]
    header = "image,study_id,patient_id,report,view,Edema,Mass,Empty"
    source = FolderSource(
        tmp_path,
        write(
            tmp_path / "reports.csv",
            header,
            f"0.png,{word},p1,Clear.,PA,{yes},{word},{word}",
            f"1.png,{word},{word},{word},{word},{no},{yes},{word}",
            f"2.png,s3,p1,Well.,L,{word},{no},{word}",
        ),
    )
    one, two, three = source
    assert [study.labels for study in (one, two, three)] == [
        {"Edema": 1},
        {"Edema": 0, "Mass": 1},
        {"Mass": 0},
    ]
    assert [study.patient_id for study in (one, two, three)] == ["p1", None, "p1"]
    assert two.sections == {}
    assert two.report == ""
    assert "Columns that are not used: Empty (empty)." in source.notes
    assert bool(word) == ("1 texts are read as missing" in notes(source))


def test_a_column_with_one_value_that_is_no_label_is_named_with_its_line(tmp_path):
    draw(tmp_path, *(f"{k}.png" for k in range(4)))
    rows = ["0.png,1,0,40", "1.png,0,1,41", "2.png,2,0,42", "3.png,1,,43"]
    source = FolderSource(tmp_path, write(tmp_path / "labels.csv", "image,Edema,Mass,age", *rows))
    assert source._table.labels == ("Mass",)
    (warning,) = source.warnings
    assert "Edema is not read as a finding: line 4 has '2' and its values are 0, 1, 2;" in warning
    assert "not used: Edema ('2'), age ('40')" in notes(source)


@pytest.mark.parametrize("column", ["Edema", "label", "Labels", "finding"])
@pytest.mark.parametrize("codes", ["0123", "012", "01234", ["0.0", "1.0", "3.0"], "01-24"])
def test_numbers_of_unknown_meaning_are_no_labels_and_a_warning(tmp_path, column, codes):
    codes = ["0", "1", "-2", "4"] if codes == "01-24" else list(codes)
    draw(tmp_path, *(f"{k}.png" for k in range(len(codes))))
    values = random.Random(column).sample(codes, len(codes))
    rows = [f"{k}.png,{value},{k % 2}" for k, value in enumerate(values)]
    source = FolderSource(tmp_path, write(tmp_path / "r.csv", f"image,{column},Mass", *rows))
    (warning,) = source.warnings
    found = ", ".join(str(int(float(c))) for c in sorted(codes, key=float))
    assert f"{column} is not read as a finding: line " in warning
    assert f"its values are {found}; known are 1 (present), 0 (absent)" in warning
    assert warning.endswith("Mass are read.")
    assert [study.labels for study in source] == [{"Mass": k % 2} for k in range(len(codes))]


@pytest.mark.parametrize("values", [[str(k) for k in range(15)], ["0", "0.25", "1", "0.5"]])
def test_numbers_in_a_column_of_labels_are_none_of_them_labels(tmp_path, values):
    draw(tmp_path, *(f"{k}.png" for k in range(len(values))))
    rows = [f"{k}.png,{value}" for k, value in enumerate(values)]
    source = FolderSource(tmp_path, write(tmp_path / "r.csv", "image,label", *rows))
    (warning,) = source.warnings
    found = "0, 1 and others" if "0.5" in values else "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."
    assert f"its values are {found}; known are" in warning
    assert [study.labels for study in source] == [{}] * len(values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            ["1", "2", "3"],
            "Edema is not read as a finding: line 3 has '2' (its values are 1, 2, 3)",
        ),
        (["1", "-1", "1"], "-1 is read as uncertain"),
        (["1", "-1", ""], ""),
        (["1", "-1", "0"], ""),
        (["1.0", "", "0.0"], ""),
    ],
)
def test_known_labels_are_read_without_a_word(tmp_path, values, said):
    draw(tmp_path, *(f"{k}.png" for k in range(3)))
    rows = [f"{k}.png,{value}" for k, value in enumerate(values)]
    source = FolderSource(tmp_path, write(tmp_path / "r.csv", "image,Edema", *rows))
    told = " ".join((*source.warnings, *source.notes))
    assert said in told
    assert ("Edema" in told) == bool(said)


@pytest.mark.parametrize("column", ["study_id", "patient_id", "image"])
@pytest.mark.parametrize("value", ["1.23E+15", "#NAME?"])
def test_ids_that_a_spreadsheet_rounded_are_refused_with_the_value(tmp_path, column, value):
    draw(tmp_path, "a.png", "b.png")
    row = {"image": "a.png", "study_id": "s", "patient_id": "p"} | {column: value}
    with (tmp_path / "reports.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerows([{"image": "b.png"}, row])
    role = column.removesuffix("_id")
    with pytest.raises(DataError, match=f"line 3: {role} is '{value[:4]}.*export the table again"):
        FolderSource(tmp_path)


def test_numbers_of_which_excel_kept_fifteen_digits_are_a_warning(tmp_path):
    draw(tmp_path, *(f"{k}.png" for k in range(3)))
    ids = ["1234567890123450000", "1234567890123460000", "1234567890123460000"]
    rows = [f"{k}.png,{id_}" for k, id_ in enumerate(ids)]
    table = write(tmp_path / "reports.csv", "image,patient_id", *rows)
    (warning,) = FolderSource(tmp_path).warnings
    assert "every patient_id of more than 15 digits ends in zeros (1234567890123450000" in warning
    table.write_text(table.read_text().replace("60000", "60001"))
    assert FolderSource(tmp_path).warnings == ()


def test_ids_that_differ_in_zeros_only_are_a_warning(tmp_path):
    draw(tmp_path, "a.png", "b.png")
    write(tmp_path / "reports.csv", "image,patient_id", "a.png,007", "b.png,7")
    (warning,) = FolderSource(tmp_path).warnings
    assert "patient_id has '007' and '7'" in warning
    write(tmp_path / "reports.csv", "image,patient_id", "a.png,007", "b.png,070")
    assert FolderSource(tmp_path).warnings == ()


def test_patients_of_several_splits_and_ids_that_are_one_are_warnings(tmp_path):
    draw(tmp_path, *(f"{k}.png" for k in range(8)))
    rows = [f"{k}.png,p{k % 4},{'train' if k < 4 else 'test'}" for k in range(8)]
    write(tmp_path / "reports.csv", "image,patient_id,split", *rows)
    (warning,) = FolderSource(tmp_path).warnings
    assert "4 patients are in several splits of the table, the first 'p0'" in warning
    rows = [f"{k}.png,{'pP'[k > 3]}t-{k % 4},{'train' if k < 4 else 'test'}" for k in range(8)]
    write(tmp_path / "reports.csv", "image,patient_id,split", *rows)
    (warning,) = FolderSource(tmp_path).warnings
    assert "4 patients are in several splits of the table, the first 'pt-0'" in warning
    write(tmp_path / "reports.csv", "image,patient_id", *(f"{k}.png,ANONYMOUS" for k in range(8)))
    (warning,) = FolderSource(tmp_path).warnings
    assert "8 of 8 studies are of the patient 'ANONYMOUS'" in warning
    write(tmp_path / "reports.csv", "image,study_id", *(f"{k}.png,1" for k in range(8)))
    (warning,) = FolderSource(tmp_path).warnings
    assert "8 of 8 images are views of the study '1'" in warning
    rows = [f"{k}.png,{'Unknown' if k < 2 else k}" for k in range(8)]
    write(tmp_path / "reports.csv", "image,patient_id", *rows)
    assert "2 of 8 studies are of the patient 'Unknown'" in FolderSource(tmp_path).warnings[0]
    write(tmp_path / "reports.csv", "image,patient_id", *(f"{k}.png,{k}" for k in range(8)))
    assert FolderSource(tmp_path).warnings == ()


def test_a_table_that_was_not_named_is_mentioned(tmp_path):
    draw(tmp_path, "a.png")
    write(tmp_path / "PADCHEST.csv", "ImageID", "a.png")
    assert "PADCHEST.csv is not read; --reports takes a table." in FolderSource(tmp_path).notes


def test_a_cell_may_name_several_images(tmp_path):
    draw(tmp_path, *["a.png", "b.png", "c.png", "d.png"])
    rows = ["1,a.png;b.png,Clear.", "2,\"['c.png', 'd.png']\",Well."]
    source = FolderSource(tmp_path, write(tmp_path / "reports.csv", "id,images,report", *rows))
    assert [[image.name for image in study.images] for study in source] == [
        ["a.png", "b.png"],
        ["c.png", "d.png"],
    ]


@pytest.mark.parametrize("column", ["findings", "impression", "report_text"])
@pytest.mark.parametrize("values", ["01", "0 1.0 -1", "True False", "2 17 3.5"])
def test_numbers_are_no_text_and_do_not_hide_one(tmp_path, column, values):
    draw_value = random.Random(column + values).choice
    cells = [draw_value(values.split() if " " in values else [*values]) for _ in range(4)]
    draw(tmp_path, *(f"{k}.png" for k in range(4)))
    other = "report" if column != "report_text" else "findings"
    rows = [f"{k}.png,{cell},Lungs clear." for k, cell in enumerate(cells)]
    source = FolderSource(tmp_path, write(tmp_path / "r.csv", f"image,{column},{other}", *rows))
    assert [study.sections for study in source] == [{"findings": "Lungs clear."}] * 4
    assert "4 texts are read as missing" in notes(source)


@pytest.mark.parametrize("column", ["findings", "report", "Impression"])
def test_names_of_findings_are_labels_in_a_column_of_texts(tmp_path, column):
    names = ["Effusion", "Mass", "Pleural_Thickening", "No Finding", "Enlarged heart", "Edema"]
    drawn = [random.Random(k).sample(names, 1 + k % 3) for k in range(6)]
    draw(tmp_path, *(f"{k}.png" for k in range(6)))
    rows = [f"{k}.png,{'|'.join(found)}" for k, found in enumerate(drawn)]
    source = FolderSource(tmp_path, write(tmp_path / "r.csv", f"image,{column}", *rows))
    assert [study.labels for study in source] == [dict.fromkeys(found, 1) for found in drawn]
    assert all(not study.sections and not study.report for study in source)
    assert f"{column} is read as names of findings." in source.notes
    rows[0] = "0.png,Effusion|Lungs are clear."
    source = FolderSource(tmp_path, write(tmp_path / "r.csv", f"image,{column}", *rows))
    assert not any(study.labels for study in source)


@pytest.mark.parametrize("column", ["findings", "report", "impression"])
@pytest.mark.parametrize("name", ["a.txt", "texts/my report 1.TXT", "C:\\x\\a.docx", "s50.pdf"])
def test_names_of_files_are_no_texts(tmp_path, column, name):
    draw(tmp_path, "0.png", "1.png")
    rows = ["0.png,Compared with a.txt. Clear.", f"1.png,{name}"]
    source = FolderSource(tmp_path, write(tmp_path / "r.csv", f"image,{column}", rows[0]))
    assert len(list(source)) == 1
    with pytest.raises(DataError, match=f"line 3: {column} is .*expected the text itself"):
        FolderSource(tmp_path, write(tmp_path / "r.csv", f"image,{column}", *rows))


@pytest.mark.parametrize("header", ["image,report", "id,image,impression", "study_id,image,report"])
def test_rows_of_one_study_that_differ_in_text_are_a_warning(tmp_path, header):
    draw(tmp_path, *(f"{k}.png" for k in range(4)))
    for seed in range(4):
        several = random.Random(seed).sample(range(4), 1 + seed % 3)
        texts = [(k, f"Text {k}.") for k in range(4)] + [(k, f"Text  {k}.") for k in range(4)]
        texts += [(k, f"Other {k}.") for k in several]
        start = "" if header.startswith("image") else "s{0},"
        rows = [f"{start.format(k)}{k}.png,{text}" for k, text in texts]
        (warning,) = FolderSource(tmp_path, write(tmp_path / "r.csv", header, *rows)).warnings
        assert f"{len(several)} studies have rows of different texts" in warning
        assert repr(f"s{several[0]}" if start else f"{several[0]}.png") in warning
        rows = rows[:8]
        assert not FolderSource(tmp_path, write(tmp_path / "r.csv", header, *rows)).warnings


@pytest.mark.parametrize("column", ["subset", "Partition", "data_split"])
def test_a_column_of_names_of_splits_is_one(tmp_path, column):
    draw(tmp_path, *(f"{k}.png" for k in range(6)))
    drawn = random.Random(column).choices(["train", "VAL", "Test"], k=6)
    ends = ["", " set", "-Set", "set", "_set", " "]
    rows = [f"{k}.png,{split}{ends[k]}" for k, split in enumerate(drawn)]
    source = FolderSource(tmp_path, write(tmp_path / "r.csv", f"image,{column}", *rows))
    assert [study.split for study in source] == [split.casefold() for split in drawn]
    rows[0] = "0.png,images_001"
    source = FolderSource(tmp_path, write(tmp_path / "r.csv", f"image,{column}", *rows))
    assert f"Columns that are not used: {column}" in notes(source)


def test_reports_that_do_not_say_where_findings_begin_are_a_warning(tmp_path):
    draw(tmp_path, *(f"{k}.png" for k in range(6)))
    texts = ["Indication: Cough. The lungs are clear.", "Indication: Cough.\nThe lungs are clear."]
    for seed in range(4):
        unclear = random.Random(seed).sample(range(6), 1 + seed)
        rows = [f'{k}.png,"{texts[k not in unclear]}"' for k in range(6)]
        source = FolderSource(tmp_path, write(tmp_path / "r.csv", "image,report", *rows))
        (warning,) = source.warnings
        assert warning.startswith(f"{1 + seed} reports do not say where their findings begin")
        assert f"'{min(unclear)}.png'" in warning
        for k, study in enumerate(source):
            assert study.sections["findings"] == (texts[0] if k in unclear else texts[1][19:])
