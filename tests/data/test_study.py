import pytest

from radrep.data.study import MANIFEST, Image, Study, read_manifest
from radrep.errors import DataError


def make_study(number: int, split: str = "train") -> Study:
    return Study(
        id=f"study {number}",
        patient_id=None,
        split=split,
        images=(Image("images/a/0.png", "frontal"), Image("images/a/1.png", saliency="s/1.png")),
        sections={"findings": 'Quote " newline \n degree \N{DEGREE SIGN} half \ud800'},
        source="drawn",
    )


def test_a_manifest_line_gives_the_study_back():
    study = make_study(1)
    line = study.to_json()
    assert "\n" not in line
    assert line.encode("ascii")
    assert Study.from_json(line) == study


@pytest.mark.parametrize("line", ["", "{}", "[]", '{"images": []}', '{"id": "a", "images": [1]}'])
def test_a_line_that_is_no_study_is_refused(line):
    with pytest.raises(DataError, match="not a study"):
        Study.from_json(line)


def test_read_manifest_gives_only_the_splits_that_were_named(tmp_path):
    studies = [make_study(1), make_study(2, "test"), make_study(3, "val"), make_study(4)]
    (tmp_path / MANIFEST).write_text("\n".join(study.to_json() for study in studies) + "\n")
    assert read_manifest(tmp_path, ("train",)) == [studies[0], studies[3]]
    assert read_manifest(tmp_path, ("val", "train")) == [studies[0], studies[2], studies[3]]


def test_an_empty_split_is_refused_by_name(tmp_path):
    (tmp_path / MANIFEST).write_text(make_study(1).to_json() + "\n")
    with pytest.raises(DataError, match="split 'test' has no study"):
        read_manifest(tmp_path, ("train", "test"))


def test_a_missing_manifest_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(DataError, match="radrep prepare iu --raw DIR"):
        read_manifest(tmp_path, ("train",))
