from dataclasses import replace

import numpy as np
import pytest

from radrep.data.store import PreparedStudies
from radrep.data.study import Study
from radrep.data.text import get_cleaner
from radrep.errors import DataError
from radrep.metrics.labeler import OBSERVATIONS, label_report
from radrep.preparation.sources.folder.source import FolderSource
from radrep.preparation.sources.iu_xray.source import IuXraySource
from radrep.preparation.sources.mimic_cxr.source import MimicCxrSource
from radrep.preparation.sources.phantom.source import PhantomSource, study_findings
from radrep.training import labels as module
from radrep.training.labels import FrequentWords, LabelReader
from tests.metrics.labeler.test_labeler import OF_KIND

NIH_NEVER = {"Enlarged Cardiomediastinum", "Fracture", "Support Devices"}


def study(labels=None, **sections) -> Study:
    return Study("s", None, "train", (), sections=sections, labels=labels or {})


def one_each(names) -> list[Study]:
    return [study({name: 1}) for name in names]


def table(studies, uncertain="ignore") -> LabelReader:
    return LabelReader(studies, source="table", uncertain=uncertain)


def reports(studies, uncertain="ignore") -> LabelReader:
    return LabelReader(studies, source="reports", uncertain=uncertain)


def read(reader, of) -> dict[str, float | None]:
    """The labels by name, None for NaN."""
    values = reader(of)
    assert values.dtype == np.float32
    assert values.shape == (14,)
    pairs = zip(OBSERVATIONS, values.tolist(), strict=True)
    return {name: None if np.isnan(value) else value for name, value in pairs}


def present(reader, of) -> set[str]:
    return {name for name, value in read(reader, of).items() if value == 1}


def unknown(reader, of) -> set[str]:
    return {name for name, value in read(reader, of).items() if value is None}


@pytest.fixture(scope="module")
def nih() -> LabelReader:
    return table(one_each(module._NIH))


@pytest.fixture(scope="module")
def mesh() -> LabelReader:
    return table(one_each([*module._MESH, *module._MESH_DOUBTFUL]))


@pytest.mark.parametrize(("uncertain", "value"), [("ignore", None), ("zero", 0), ("one", 1)])
def test_chexpert_tables_are_read_as_they_say(uncertain, value):
    reader = table(one_each(OBSERVATIONS), uncertain)
    assert reader.vocabulary == "chexpert"
    assert reader.known == OBSERVATIONS
    row = read(reader, study({"Edema": 1, "Pneumonia": -1, "Fracture": 0}))
    assert row.pop("Edema") == 1
    assert row.pop("Pneumonia") == value
    assert set(row.values()) == {0}  # said to be absent, or left blank


def test_a_study_without_a_row_is_unknown():
    assert unknown(table(one_each(OBSERVATIONS)), study()) == set(OBSERVATIONS)


def test_names_that_no_vocabulary_knows_are_ignored():
    reader = table([*one_each(OBSERVATIONS), study({"Smoker": 1})])
    assert present(reader, study({"Smoker": 1, "Edema": 1})) == {"Edema"}
    assert unknown(reader, study({"Smoker": 1})) == set(OBSERVATIONS)


def test_what_no_training_study_names_is_unknown_everywhere():
    reader = table([study({"Pneumonia": 1}), study({"Pneumonia": 0}), study({"Edema": 0})])
    assert reader.known == ("Edema", "Pneumonia")
    row = read(reader, study({"Pneumonia": 1, "Fracture": 1}))
    assert {name: value for name, value in row.items() if value is not None} == {
        "Edema": 0,
        "Pneumonia": 1,
    }


def test_chestxray14_names_mean_what_the_labeller_reads_in_them(nih):
    assert nih.vocabulary == "nih"
    assert set(OBSERVATIONS) - set(nih.known) == NIH_NEVER
    for name, observations in module._NIH.items():
        told = name.replace("fibrosis", "pulmonary fibrosis")  # as ChestX-ray14 means it
        states = label_report(f"{told}.").states
        positive = {o for o, state in states.items() if state == "positive"}
        assert name == "no finding" or positive == set(observations), name
        for spelled in (name, name.title().replace(" ", "_")):
            assert present(nih, study({spelled: 1})) == set(observations)
            assert unknown(nih, study({spelled: 1})) == NIH_NEVER


def test_chestxray14_images_keep_their_labels(data_dir):
    source = list(FolderSource(data_dir / "nih_chestxray14_100"))
    reader = table(
        Study(s.id, s.patient_id, s.split, (), s.sections, labels=s.labels) for s in source
    )
    assert reader.vocabulary == "nih"
    rows = {s.id: present(reader, study(s.labels)) for s in source}
    assert rows["images/00000008_000.png"] == {"Cardiomegaly"}
    assert rows["images/00000038_002.png"] == {"No Finding"}
    assert rows["images/00000003_000.png"] == set()  # a hernia
    assert sum("Lung Lesion" in row for row in rows.values()) == 13  # 7 masses, 6 nodules
    assert sum("No Finding" in row for row in rows.values()) == 6


def test_mesh_terms_mean_an_observation_or_another_finding(mesh):
    assert mesh.vocabulary == "mesh"
    assert mesh.known == OBSERVATIONS
    assert present(mesh, study({"normal": 1})) == {"No Finding"}
    assert present(mesh, study({"Hydropneumothorax": 1})) == {"Pneumothorax", "Pleural Effusion"}
    spine = read(mesh, study({"Scoliosis": 1}))
    assert set(spine.values()) == {0}
    assert unknown(mesh, study()) == set(OBSERVATIONS)


def test_terms_that_leave_an_observation_open_make_it_uncertain(mesh):
    assert unknown(mesh, study({"Pulmonary Congestion": 1})) == {"Edema"}
    both = study({"Pulmonary Congestion": 1, "Pulmonary Edema": 1})
    assert present(mesh, both) == {"Edema"}
    as_one = table(one_each([*module._MESH, *module._MESH_DOUBTFUL]), "one")
    assert present(as_one, study({"Density": 1})) == {"Lung Opacity", "Lung Lesion"}


def test_topics_of_rad_restruct_count_by_their_place():
    topics = [*module._RAD_RESTRUCT, *module._RAD_RESTRUCT_DOUBTFUL]
    none = study(dict.fromkeys([*topics, "lung/lucency", "breast/mass"], 0))
    reader = table([none])
    assert reader.vocabulary == "rad-restruct"
    assert reader.known == OBSERVATIONS
    assert set(read(reader, none).values()) == {0}

    def of(*named) -> Study:
        return study({**none.labels, **dict.fromkeys(named, 1)})

    assert present(reader, of("lung/mass")) == {"Lung Lesion"}
    assert present(reader, of("breast/mass")) == set()
    assert present(reader, of("pleura/thickening")) == {"Pleural Other"}
    assert present(reader, of("lung/thickening")) == set()
    assert unknown(reader, of("lung/thickening")) == {"Lung Opacity"}
    assert unknown(reader, of("lung/density", "lung/nodule")) == {"Lung Opacity"}
    assert present(reader, of("normal", "foreign objects/stents")) == {
        "No Finding",
        "Support Devices",
    }


@pytest.mark.slow
def test_mesh_terms_agree_with_what_the_reports_say(data_dir):
    source = [s for s in IuXraySource(data_dir / "iu_xray") if s.split == "train"]
    studies = [study(s.labels, **s.sections) for s in source]
    by_table, by_report = table(studies), reports(studies)
    assert by_table.vocabulary == "mesh"
    assert by_table.known == OBSERVATIONS
    ours = np.array([by_report(s) for s in studies])
    theirs = np.array([by_table(s) for s in studies])
    both = ~np.isnan(ours) & ~np.isnan(theirs)
    for i, name in enumerate(OBSERVATIONS):
        a, b = ours[both[:, i], i], theirs[both[:, i], i]
        f1 = 2 * (a * b).sum() / (a.sum() + b.sum())
        assert f1 > 0.5, (name, f1)


def test_mimic_tables_are_read_as_they_say(data_dir):
    source = [s for s in MimicCxrSource(data_dir / "mimic_cxr_like") if s.labels]
    reader = table(study(s.labels) for s in source)
    assert reader.vocabulary == "chexpert"
    for s in source:
        assert present(reader, study(s.labels)) == {n for n, v in s.labels.items() if v == 1}


@pytest.mark.parametrize(("uncertain", "value"), [("ignore", None), ("zero", 0), ("one", 1)])
def test_reports_are_read_by_the_labeller(uncertain, value):
    text = study(findings="Large left effusion. No pneumothorax.", impression="Possible pneumonia.")
    reader = reports([study(), text], uncertain)
    assert reader.vocabulary == "reports"
    row = read(reader, text)
    assert row["Pleural Effusion"] == 1
    assert row["Pneumonia"] == value
    assert row["Pneumothorax"] == row["Fracture"] == row["No Finding"] == 0
    assert unknown(reader, study(indication="Cough.")) == set(OBSERVATIONS)


def test_reports_of_phantoms_tell_what_was_drawn():
    studies = [study(**s.sections) for s in PhantomSource(50)]
    reader = reports(studies)
    for index, drawn in enumerate(studies):
        kinds = {OF_KIND[finding.kind] for finding in study_findings(0, index)}
        assert present(reader, drawn) == (kinds or {"No Finding"})


def test_several_vocabularies_in_one_table_are_refused():
    mixed = one_each(["Effusion", "Mass", "Nodule", "Pleural Effusion"])
    with pytest.raises(DataError, match="'Effusion' is nih's and 'Pleural Effusion' is not"):
        table(mixed)
    with pytest.raises(DataError, match="'normal' is not"):
        table(one_each([*OBSERVATIONS, "normal"]))


def test_a_set_without_usable_labels_names_the_other_source():
    with pytest.raises(DataError, match=r"what there is: Smoker\): .* labels: reports"):
        table([study({"Smoker": 1})])
    with pytest.raises(DataError, match=r"what there is: nothing\)"):
        table([study(findings="Clear.")])
    with pytest.raises(DataError, match="no study has a report .* labels: table"):
        reports([study({"Edema": 1}, indication="Cough.")])


def test_unknown_choices_are_refused():
    with pytest.raises(DataError, match="cannot be 'maybe'; choose from ignore, zero, one"):
        table(one_each(OBSERVATIONS), "maybe")
    with pytest.raises(DataError, match="cannot come from 'words'; choose from table, reports"):
        LabelReader([], source="words", uncertain="zero")


def test_frequent_words_and_sentences_are_those_of_the_training_reports(phantoms):
    studies = PreparedStudies(phantoms, "train")
    words = FrequentWords(studies, 1000, target="findings", clean=get_cleaner("plain"))
    table = np.stack([words(study) for study in studies])
    assert 10 < words.known < 1000
    assert np.isnan(table[:, words.known :]).all()
    shares = table[:, : words.known].mean(axis=0)
    assert ((shares > 0.015) & (shares < 0.85)).all()
    assert (np.diff(shares) <= 0).all(), "the most frequent first"
    fewer = FrequentWords(studies, 5, target="findings", clean=get_cleaner("plain"))
    np.testing.assert_array_equal(np.stack([fewer(study) for study in studies]), table[:, :5])
    first = replace(studies[0], sections={"findings": "Unheard."})
    assert words(first)[: words.known].sum() == 0
    with pytest.raises(DataError, match="no word is in"):
        FrequentWords(studies, 5, target="findings", clean=lambda _: "")
