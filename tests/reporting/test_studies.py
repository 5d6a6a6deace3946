"""Which images of a folder are one study."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radrep.errors import DataError
from radrep.reporting.studies import FoundStudies, file_studies, find_studies
from tests.data.dicom.drawing import GREY
from tests.reporting.mixed_films import ROOT_UID, write_film


def put(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(GREY).save(path)
    return folder


def members(found: FoundStudies) -> dict[str, tuple[str, ...]]:
    return {study.id: study.names for study in found.studies}


def test_sub_folders_are_studies_where_none_holds_more_than_four_images(tmp_path: Path) -> None:
    names = ["a/1.png", "a/2.png", "b/c/1.png", "alone.png"]
    found = find_studies(put(tmp_path, *names))
    whole = {"a": ("a/1.png", "a/2.png"), "b/c": ("b/c/1.png",), "alone.png": ("alone.png",)}
    assert members(found) == whole
    assert found.layout == "3 of 4 images: 2 by folder, 1 of a single file"
    put(tmp_path, *(f"a/{k}.png" for k in range(3, 6)))
    alone = {*(f"a/{k}.png" for k in range(1, 6)), "b/c/1.png", "alone.png"}
    assert members(find_studies(tmp_path)) == {name: (name,) for name in alone}
    assert len(members(find_studies(tmp_path, group="folder"))["a"]) == 5


def test_folders_named_as_studies_are_studies_however_many_images_they_hold(tmp_path: Path) -> None:
    own = [f"p10000032/s50414267/{k}.png" for k in range(5)]
    others = [f"more/{k}.png" for k in range(5)]
    found = members(find_studies(put(tmp_path, *own, *others)))
    assert found.pop("p10000032/s50414267") == tuple(own)
    assert found == {name: (name,) for name in others}


def test_dicom_files_of_one_study_uid_are_one_study_wherever_they_lie(tmp_path: Path) -> None:
    for name, study in (("x/1", 1), ("y/2.dcm", 1), ("y/3.dcm", 2)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_film(tmp_path / name, GREY, study=study)
    found = find_studies(tmp_path)
    assert members(found) == {
        f"{ROOT_UID}.2": ("x/1", "y/2.dcm"),
        f"{ROOT_UID}.3": ("y/3.dcm",),
    }
    assert found.studies[0].projections == ("frontal", "frontal")
    assert len(find_studies(tmp_path, group="file").studies) == 3
    given = [tmp_path / name for name in ("x/1", "y/2.dcm", "y/3.dcm")]
    assert list(members(file_studies(given))) == [f"{ROOT_UID}.2", f"{ROOT_UID}.3"]


def test_a_table_names_the_studies(tmp_path: Path) -> None:
    films = put(tmp_path / "films", "d/1.png", "d/2.png", "d/3.png")
    table = tmp_path / "studies.csv"
    table.write_text(
        "image,study_id,view\n2.png,s1,lateral\nd/1.png,s1,frontal\n9.png,s2,\nd/1.png,s1,frontal\n"
    )
    found = find_studies(films, table=table)
    first, second = found.studies
    assert (first.id, first.names) == ("s1", ("d/2.png", "d/1.png"))
    assert first.projections == ("lateral", "frontal")
    assert second.read(64).left_out == (
        ("9.png", "not found, or there are several files of this name"),
    )
    assert "1 images are not in the table and are not used." in found.notes


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("image\nx.png\n", "none of the images that .* is in"),
        ("a,b\n1,2\n", "no row with a column"),
    ],
)
def test_a_table_without_an_image_of_the_folder_is_refused(
    rows: str, told: str, tmp_path: Path
) -> None:
    table = tmp_path / "studies.csv"
    table.write_text(rows)
    with pytest.raises(DataError, match=told):
        find_studies(put(tmp_path / "films", "1.png"), table=table)


def test_what_is_no_image_is_counted(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    (tmp_path / "notes.txt").write_text("about the films")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    notes = find_studies(tmp_path).notes
    assert {*notes} == {"1 files are no images.", "1 links lead nowhere."}
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image"):
        find_studies(tmp_path / "empty")


def test_a_study_is_read_without_what_is_broken_or_there_twice(tmp_path: Path) -> None:
    put(tmp_path, "s/1.png", "s/2.png", "s/3.png")
    (tmp_path / "s/2.png").write_text("no film")
    Image.fromarray(np.flipud(GREY)).save(tmp_path / "s/4.png")
    (study,) = find_studies(tmp_path).studies
    read = study.read(32)
    assert read.films is not None
    assert [path.name for path in read.films.images] == ["1.png", "4.png"]
    (broken, _), (twin, reason) = read.left_out
    assert (broken, twin, reason) == (
        "s/2.png",
        "s/3.png",
        "the same image as s/1.png of this study",
    )


def test_names_can_be_shown_and_stored(tmp_path: Path) -> None:
    put(tmp_path, "a\n\x1b.png", "b\udcff.png")
    names = [name for study in find_studies(tmp_path).studies for name in study.names]
    assert sorted(names) == [r"a\n\x1b.png", r"b\udcff.png"]
    assert all(study.read(32).films for study in find_studies(tmp_path).studies)


def test_a_study_has_another_fingerprint_when_an_image_changes(tmp_path: Path) -> None:
    (study,) = find_studies(put(tmp_path, "1.png")).studies
    before = study.fingerprint()
    assert study.fingerprint() == before
    Image.fromarray(GREY[::-1]).save(tmp_path / "1.png")
    assert study.fingerprint() != before
