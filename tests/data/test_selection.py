import pytest

from radrep.data.selection import View, masked_view, views_of
from radrep.data.study import Image, Study


def study(*projections: str) -> Study:
    images = tuple(Image(str(k), projection, "") for k, projection in enumerate(projections))
    return Study("s", None, "train", images)


def test_views_differ_and_one_view_is_never_copied() -> None:
    three, one = study("frontal", "lateral", "frontal"), study("frontal")
    assert views_of(three, pair="views", max_views=2) == (View(0), View(1))
    assert views_of(one, pair="views", max_views=2) == (View(0),)


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
    assert views_of(shown, pair="saliency", max_views=2) == (View(masked), View(masked, True))
    *bare, last = views_of(shown, pair="views_saliency", max_views=2)
    assert tuple(bare) == views_of(shown, pair="views", max_views=2)
    assert last == View(masked, saliency=True)
