import numpy as np
import pytest
from PIL import Image

from radrep.errors import DataError
from radrep.preparation.sources.image_tree import describe_image, locate, tree_image


def test_an_image_is_found_under_any_ending_the_quickest_first(tmp_path):
    pixels = np.arange(1600, dtype=np.uint32).reshape(40, 40).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(tree_image(tmp_path, "a.jpg", "frontal").read(256), pixels)
    for name in ("a.txt", "a.dcm", "ab.jpg"):
        (tmp_path / name).touch()
    assert locate(tmp_path, "a.tiff") == tmp_path / "a.png"
    (tmp_path / "a.JPG").touch()
    assert locate(tmp_path, "a.tiff") == tmp_path / "a.JPG"
    assert locate(tmp_path, "a.dcm") == tmp_path / "a.dcm"


@pytest.mark.parametrize("name", ["../a.png", "x/../../a.png", "/a.png", "", "a\0.png"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    (tmp_path / "a.png").touch()
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="leads out of"):
        locate(tmp_path / "in", name)
    assert describe_image(tmp_path / "in", name).endswith("absent")


def test_a_description_tells_images_by_ending_and_size(tmp_path):
    seen = [describe_image(tmp_path, "a.png")]
    (tmp_path / "a.png").write_bytes(b"1")
    seen.append(describe_image(tmp_path, "a.png"))
    (tmp_path / "a.png").write_bytes(b"22")
    seen.append(describe_image(tmp_path, "a.png"))
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    seen.append(describe_image(tmp_path, "a.png"))
    assert len(set(seen)) == 4
