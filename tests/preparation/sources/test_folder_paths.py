import pytest

from radrep.preparation.sources.folder.paths import ids_of, split_of


@pytest.mark.parametrize(
    ("path", "ids"),
    [
        ("train/patient00001/study1/view1_frontal.jpg", ("patient00001", "patient00001/study1")),
        (r"train\patient00001\study1\v.jpg", ("patient00001", "patient00001/study1")),
        ("files/p10/p10000032/s50414267/a.jpg", ("p10000032", "p10000032/s50414267")),
        ("sub-01/ses-02/a.png", ("sub-01", "sub-01/ses-02")),
        ("Patient_A12/x/a.png", ("Patient_A12", "")),
        ("x/Subject 7/a.png", ("Subject 7", "")),
        ("patient1.png", ("", "")),
        ("subset1/a.png", ("", "")),
        ("patch01/a.png", ("", "")),
        ("p1/s1/a.png", ("", "")),
        ("patients/a.png", ("", "")),
        ("example1/study1/a.png", ("", "")),
    ],
)
def test_patients_and_studies_are_folders_that_are_called_so(path, ids):
    assert ids_of(path) == ids


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train/a.png", "train"),
        ("x/Valid/p/a.png", "val"),
        ("test/NORMAL/a.png", "test"),
        ("Training set/a.png", "train"),
        ("x/Test_Set/NORMAL/a.png", "test"),
        ("Validation set/Trained/a.png", "val"),
        ("trainset/a.png", "train"),
        ("TESTING/a.png", "test"),
        ("dev-set/a.png", "val"),
        ("set/a.png", ""),
        ("train.png", ""),
        ("train/test/a.png", ""),
        ("training_data/a.png", "train"),
        ("stage_2_test_images/a.png", "test"),
        ("1_val/Training wheels/a.png", "val"),
        ("train-test/a.png", ""),
        ("test patients/a.png", ""),
        ("testicular/a.png", ""),
    ],
)
def test_a_split_is_the_one_folder_that_is_called_so(path, split):
    assert split_of(path) == split
