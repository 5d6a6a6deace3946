import random
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


@pytest.mark.parametrize("seed", range(40))
def test_no_name_gets_the_image_of_another(seed):
    """Patients have images of the same numbers; some are missing and zeros are lost at random."""
    draw = random.Random(seed)
    folder = draw.choice(["p{}", "patient{:05d}/study1", "data/{}", "site{}/films"])
    width = draw.randint(3, 8)
    inner, root = draw.choice([("", ""), ("png/", ""), ("", "/home/x/"), ("", "C:\\films\\")])
    truth = {}
    for patient in range(1, draw.randint(3, 6)):
        for number in [7, *draw.sample(range(8, 100), 4)]:
            zeros = draw.choice([1, width])
            file = f"{inner}{folder.format(patient)}/{number:0{width}d}.png"
            truth[f"{folder.format(patient)}/{number:0{zeros}d}"] = file
    ending = draw.choice(["", ".png", ".jpg"])
    files = [file for file in truth.values() if draw.random() < 0.6]
    names = draw.sample(sorted(truth), len(truth))
    expected = [truth[name] if truth[name] in files else None for name in names]
    assert found([f"{root}{name}{ending}" for name in names], files) == expected
    # Of a part of the table no more is known, but folders that differ in a number still differ.
    for name, file in zip(names, expected, strict=True):
        assert found([f"{root}{name}{ending}"], files) == [file]


def test_zeros_are_lost_in_the_same_folder_and_only_by_one_name():
    draw = random.Random(0)
    number = str(draw.randint(1, 999))
    file = f"a/b/000{number}.png"
    for name in (number, f"b/{number}", f"x/a/b/{number}.png"):
        assert found([name], [file]) == [file]
        assert found([name, f"0{number}"], [file]) == [None, None]
        assert found([name, f"000{number}"], [file]) == [None, file]
        other = f"c/{name.replace(number, '0' + number)}".removesuffix(".png") + ".png"
        assert found([name], [file, other]) == [None]
    assert found([f"c/{number}", f"a/{number}", f"0{number}"], [file]) == [None] * 3
    assert found([f"p1/{number}", f"p2/{number}"], [f"00{number}.png"]) == [None, None]


def test_a_table_may_have_its_own_folders_but_not_the_files_for_other_images():
    assert found(["images/b", "images/c"], ["films/b.png"]) == ["films/b.png", None]
    assert found(["train/b"], ["train/normal/b.png"]) == ["train/normal/b.png"]
    assert found(["ann/b", "bob/c"], ["bob/b.png", "bob/c.png"]) == [None, "bob/c.png"]
    assert found(["ann/b"], ["bob/b.png", "ann/c.png"]) == [None]
    assert found(["p2/b"], ["p1/b.png"]) == [None]
    assert found(["b", "ann/b"], ["b.png"]) == ["b.png", None]
