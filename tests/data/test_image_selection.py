import pytest

from radrep.data.image_selection import ImageSelection, View, masked_view
from radrep.data.study import Image, Study


def study(*projections: str) -> Study:
    images = tuple(Image(str(k), projection, "") for k, projection in enumerate(projections))
    return Study("s", None, "train", images)


def test_views_differ_and_one_view_is_never_copied() -> None:
    three, one = study("frontal", "lateral", "frontal"), study("frontal")
    assert ImageSelection("views", 2).of(three) == (View(0), View(1))
    assert ImageSelection("views", 2).of(one) == (View(0),)


@pytest.mark.parametrize(
    ("projections", "masked"),
    [
        (("frontal", "lateral"), 0),
        (("lateral", "frontal", "frontal"), 1),  # some studies have them the other way round
        (("unknown", "lateral"), 0),
        (("lateral",), 0),
    ],
)
def test_the_first_frontal_image_is_masked(projections: tuple[str, ...], masked: int) -> None:
    shown = study(*projections)
    assert masked_view(shown) == masked
    assert ImageSelection("frontal+mask", 2).of(shown) == (View(masked), View(masked, True))
    *bare, last = ImageSelection("views+mask", 2).of(shown)
    assert tuple(bare) == ImageSelection("views", 2).of(shown)
    assert last == View(masked, masked=True)
