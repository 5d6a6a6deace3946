"""Statistics of grey levels: what they hold, and what they are blind to."""

import math

import numpy as np
import pytest
import torch

from radrep.guidance.film_statistics import NUM_FILM_STATISTICS, film_statistics
from radrep.guidance.image_features import column_weights, film_of, weighted_scale

ROWS, COLUMNS, RADIAL = slice(256, 368), slice(368, 480), slice(480, 608)


@pytest.mark.parametrize("size", [(64, 64), (224, 224), (97, 130)])
def test_every_size_gives_the_same_numbers_alone_and_in_a_batch(size):
    grey = torch.rand(3, *size)
    found = film_statistics(grey)
    assert found.shape == (3, NUM_FILM_STATISTICS)
    torch.testing.assert_close(film_statistics(grey[1:2]), found[1:2])


@pytest.mark.parametrize("size", [64, 160])
def test_any_number_of_threads_gives_the_same_bits(size):
    grey, threads = torch.rand(16, size, size), torch.get_num_threads()
    found = []
    try:
        for num in (1, 2, 3):
            torch.set_num_threads(num)
            found.append(film_statistics(grey))
    finally:
        torch.set_num_threads(threads)
    assert found[0].equal(found[1])
    assert found[0].equal(found[2])


def test_histogram_counts_the_levels():
    grey = torch.zeros(1, 8, 8)
    grey[0, 0] = 1.0
    grey[0, 1, :3] = 100 / 255
    counts = film_statistics(grey)[0, :256].expm1().round()
    assert {int(level): int(counts[level]) for level in counts.nonzero()} == {0: 53, 100: 3, 255: 8}


def test_spectra_tell_stripes_across_from_stripes_down():
    wave = torch.sin(torch.arange(224) * 2 * math.pi * 28 / 224) * 0.4 + 0.5  # 28 periods
    across = film_statistics(wave.repeat(224, 1)[None])[0]
    down = film_statistics(wave[:, None].repeat(1, 224)[None])[0]
    torch.testing.assert_close(across[ROWS], down[COLUMNS])
    assert across[ROWS][10:].max() > 4
    assert across[COLUMNS][10:].max() < 1e-3
    assert across[ROWS].argmax() in (27, 28)
    # A quarter of the way to half a cycle a pixel, whatever the direction.
    for found in (across, down):
        assert 10 + found[RADIAL][10:].argmax() == round(28 / 224 * 2 * 127)


def test_anatomy_is_not_in_them():
    """Flipped films, left for right and upside down, have the same statistics."""
    grey = torch.rand(1, 64, 64).cumsum(1).cumsum(2)
    grey = grey / grey.max()
    for flipped in (grey.flip(1), grey.flip(2), grey.flip(1, 2)):
        torch.testing.assert_close(
            film_statistics(flipped), film_statistics(grey), rtol=1e-3, atol=1e-3
        )


def test_normalised_images_are_made_grey_again():
    grey = (torch.rand(2, 32, 32) * 255).round() / 255
    means, deviations = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    normalised = (grey[:, None] - torch.tensor(means)[:, None, None]) / torch.tensor(deviations)[
        :, None, None
    ]
    found = film_of(normalised, (means, deviations))
    torch.testing.assert_close(found, film_statistics(grey), rtol=1e-3, atol=1e-3)


def test_film_weighs_what_it_is_given_however_many_numbers_it_has():
    weights = column_weights(2 * (40 + NUM_FILM_STATISTICS), 2, maps=1.0, film=0.5)
    one_view = weights[: len(weights) // 2]
    np.testing.assert_allclose(one_view, weights[len(weights) // 2 :])
    np.testing.assert_allclose(one_view[40:].sum(), 0.5 * one_view[:40].sum())
    np.testing.assert_allclose(weights.mean(), 1)
    vectors = np.random.default_rng(0).normal(size=(200, len(weights))).astype(np.float32)
    standard = (vectors - vectors.mean(0)) / weighted_scale(vectors, weights)
    np.testing.assert_allclose((standard**2).mean(0), weights, rtol=1e-3)
    alone = column_weights(2 * (40 + NUM_FILM_STATISTICS), 2, maps=0.0, film=0.5)
    assert np.isinf(weighted_scale(vectors, alone)[:40]).all()
