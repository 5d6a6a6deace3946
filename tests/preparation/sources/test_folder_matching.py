import unicodedata

import pytest

from radrep.preparation.sources.folder.files import pack
from radrep.preparation.sources.folder.matching import match_files

FILES = (
    "train/patient00001/study1/view1_frontal.jpg",
    "train/patient00001/study2/view1_frontal.jpg",
    "train/patient00002/study1/view1_frontal.jpg",
    "films/Größe.PNG",
    "films/b.png",
    "films/b.txt",
    "films/00000012.png",
    "1.2.840.113619.4.dcm",
)


def found(names, files=FILES):
    places = match_files(pack(names), pack(files)).places
    return [None if place < 0 else files[place] for place in places]


@pytest.mark.parametrize(
    "name",
    [
        "films/b.png", "b.png", "b", "B", "b.jpg", "b.dcm.png", "B.PNG", "FILMS/B.png",
        "./films/b.png", "/home/x/films/b.png", r"films\b.png", r"C:\data\films\b.png",
        r"\\server\share\films\b.png", "file:///data/films/b.png", "https://host/a/films/b.png",
        "s3://bucket/b.png", " b.png ", "other/b.png", "../films/b.png", "/b.png",
    ],
)  # fmt: skip
def test_a_name_from_another_machine_is_found_by_its_end(name):
    assert found([name]) == ["films/b.png"]


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
@pytest.mark.parametrize("name", ["Größe.PNG", "größe.png", "GRÖSSE", "films/größe"])
def test_forms_of_unicode_and_capitals_do_not_matter(form, name):
    for files in (FILES, [unicodedata.normalize("NFD", file) for file in FILES]):
        (place,) = match_files(pack([unicodedata.normalize(form, name)]), pack(files)).places
        assert place == 3


def test_blanks_in_urls_are_decoded():
    assert found(["file:///C:/my%20films/a%20b.png"], ["my films/a b.png"]) == ["my films/a b.png"]
    assert found(["a%20b.png"], ["a b.png"]) == [None]


def test_the_longest_end_counts_and_other_studies_are_not_taken():
    names = [f"CheXpert-v1.0/train/patient0000{p}/study{s}/view1_frontal.png" for p, s in
             ((1, 1), (1, 2), (2, 1), (3, 1))]  # fmt: skip
    assert found(names) == [*FILES[:3], None]
    # Of one file that is there, the others in the table are not copies.
    assert found(names[:3], FILES[1:2]) == [None, FILES[1], None]
    assert found(["p1/a.png", "p2/a.png"], ["x/p1/a.jpg", "y/a.png"]) == ["x/p1/a.jpg", None]


def test_a_path_from_the_folder_is_never_in_doubt():
    files = ["a.png", "x/a.png", "y/x/a.png"]
    assert found(["a.png", "x/a.png", "a", "X/A", "y/x/a.jpg"], files) == [
        files[0], files[1], files[0], files[1], files[2],
    ]  # fmt: skip


def test_names_that_end_like_several_files_are_not_found():
    assert found(["study1/view1_frontal.jpg", "view1_frontal"]) == [None, None]
    assert found(["a.png"], ["x/a.png", "y/a.png"]) == [None]
    assert found(["a"], ["a.png", "a.jpg"]) == [None]
    assert found(["a.png", "A.png", "a"], ["a.png", "A.png"]) == ["a.png", "A.png", "a.png"]


def test_ids_with_dots_have_no_ending():
    assert found(["1.2.840.113619.4", "1.2.840.113619.4.png"]) == [FILES[-1]] * 2
    assert found(["1.2.840.113619.5", "1.2.840"]) == [None, None]


def test_names_that_lost_their_zeros_are_found_and_counted():
    matches = match_files(pack(["12", "b.png", "12.0", "13"]), pack(FILES))
    assert matches.places.tolist() == [6, 4, 6, -1]
    assert (matches.num_without_zeros, matches.example) == (2, "12")
    assert found(["1"], ["01.png", "001.png"]) == [None]
    assert found(["0"], ["000.png", "00.png"]) == [None]


def test_nothing_is_found_of_nothing():
    assert found([], FILES) == []
    assert found(["a", "", "/", ".."], ["b.png"]) == [None] * 4
    assert found(["a.png"], []) == [None]
