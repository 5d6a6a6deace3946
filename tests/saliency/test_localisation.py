import numpy as np
import pytest

from radrep.preparation.sources.phantom.drawing import KINDS
from tests.saliency.localisation import (
    center_prior,
    mass_inside,
    mean_region,
    phantom_regions,
    pointing_game,
    random_map,
)

SIZE = 64


def square(top: int, left: int, side: int, size: int = SIZE) -> np.ndarray:
    region = np.zeros((size, size), dtype=bool)
    region[top : top + side, left : left + side] = True
    return region


@pytest.fixture(scope="module")
def regions() -> dict[str, list[np.ndarray]]:
    return {k: list(by.values()) for k, by in phantom_regions(0, range(250), SIZE).items()}


def test_a_map_of_the_region_is_right_and_one_of_the_rest_wrong():
    region = square(10, 20, 8)
    assert pointing_game(region.astype(float), region) == 1
    assert mass_inside(region.astype(float), region) == 1
    assert pointing_game((~region).astype(float), region) == 0
    assert mass_inside((~region).astype(float), region) == 0


def test_the_maximum_alone_decides_the_pointing_game():
    region = square(10, 20, 8)
    spread = random_map(np.random.default_rng(0), SIZE)
    spread[12, 22] = 2
    assert pointing_game(spread, region) == 1
    assert mass_inside(spread, region) < 0.05
    spread[0, 0] = 3
    assert pointing_game(spread, region) == 0


def test_the_margin_is_a_distance():
    region = square(10, 20, 8)
    near = np.zeros((SIZE, SIZE))
    near[7, 16] = 1  # three above and four beside the corner
    assert [pointing_game(near, region, margin) for margin in (0, 4, 5)] == [0, 0, 1]


def test_several_maxima_count_by_their_share():
    region = square(0, 0, 2)
    ties = np.zeros((SIZE, SIZE))
    ties[0, 0] = ties[1, 1] = ties[5, 5] = ties[6, 6] = 1
    assert pointing_game(ties, region) == 0.5


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_map_of_one_value_has_the_share_of_the_region(value):
    region = square(3, 5, 10)
    flat = np.full((SIZE, SIZE), value)
    assert pointing_game(flat, region) == pytest.approx(region.mean())
    assert mass_inside(flat, region) == pytest.approx(region.mean())


def test_random_maps_point_into_the_region_by_its_share():
    rng, region = np.random.default_rng(0), square(3, 5, 20)
    maps = [random_map(rng, SIZE) for _ in range(2000)]
    share = region.mean()
    error = (share * (1 - share) / len(maps)) ** 0.5
    assert np.mean([pointing_game(m, region) for m in maps]) == pytest.approx(share, abs=4 * error)
    assert np.mean([mass_inside(m, region) for m in maps]) == pytest.approx(share, rel=0.01)


def test_the_scale_of_a_map_does_not_matter():
    rng, region = np.random.default_rng(1), square(3, 5, 20)
    for _ in range(20):
        one = random_map(rng, SIZE)
        assert pointing_game(7 * one, region) == pointing_game(one, region)
        assert mass_inside(7 * one, region) == pytest.approx(mass_inside(one, region))


@pytest.mark.parametrize("size", [64, 65])
def test_the_center_prior_points_at_the_center_and_falls_by_its_width(size):
    prior = center_prior(size)
    middle = square(size // 2 - 1, size // 2 - 1, 2 + size % 2, size)
    assert pointing_game(prior, middle) == 1
    np.testing.assert_allclose(prior, prior[::-1])
    np.testing.assert_allclose(prior, prior.T)
    mean = (prior * np.linspace(-1, 1, size) ** 2).sum() / prior.sum()
    assert mean == pytest.approx(0.19, abs=0.02)  # of a Gaussian of 0.5 that ends at -1 and 1
    assert (
        mass_inside(center_prior(size, 0.05), square(size // 4, size // 4, size // 2, size)) > 0.99
    )


def test_no_fixed_place_is_better_than_the_maximum_of_the_mean_region(regions):
    for kind in KINDS:
        prior = mean_region(regions[kind])
        best = np.mean([pointing_game(prior, region) for region in regions[kind]])
        assert best == pytest.approx(prior.max())
        rng = np.random.default_rng(0)
        for _ in range(50):
            place = random_map(rng, SIZE)
            assert np.mean([pointing_game(place, r) for r in regions[kind]]) <= best


def test_without_an_image_nothing_is_found_on_phantoms(regions):
    for kind in KINDS:
        here = regions[kind]
        assert len(here) > 40
        assert np.mean([pointing_game(center_prior(SIZE), region) for region in here]) < 0.02
        assert mean_region(here).max() < 0.5, kind
        assert np.mean(here) < 0.04, kind


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.full((SIZE, SIZE), np.nan), "not finite"),
        (np.full((SIZE, SIZE), -1.0), "the value -1.0"),
        (np.ones((3, 3)), r"a map \(3, 3\) of a region \(64, 64\)"),
    ],
)
def test_maps_that_are_none_are_refused(bad, message):
    for score in (pointing_game, mass_inside):
        with pytest.raises(AssertionError, match=message):
            score(bad, square(0, 0, 3))
