"""Maps of a trained discriminator against the places where phantoms have their findings."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.saliency.localisation import (
    MARGIN,
    center_prior,
    find_maps,
    mass_inside,
    open_discriminator,
    pointing_game,
    random_map,
)
from tests.whole_way import radrep


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantoms") / "data"
    result = radrep("prepare", "phantom", "--num-studies", "1600", "--out", out)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A discriminator of four epochs with maps of 12x12; two are too few."""
    out = tmp_path_factory.mktemp("discriminator") / "run"
    changes = {
        "data.prepared": data, "data.image_size": 192, "model.backbone.stride": 16,
        "model.backbone.frozen_stages": 0, "model.words": 0, "optim.encoder_lr": 3.0e-4,
        "model.dropout": 0, "train.epochs": 4,
    }  # fmt: skip
    words = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    result = radrep("train", "sdam_discriminator_cpu", *words, "--out", out)
    assert result.exit_code == 0, result.output
    return out


@pytest.mark.slow
def test_maps_point_at_the_findings(run: Path, data: Path) -> None:
    maker = open_discriminator(run)
    looks = [pair for pairs in find_maps(maker, data).values() for pair in pairs]
    assert len(looks) > 150
    regions = [region for _, region in looks]
    assert max(region.mean() for region in regions) < 0.08
    pointed = np.mean([pointing_game(map_, region, MARGIN) for map_, region in looks])
    exactly = np.mean([pointing_game(map_, region) for map_, region in looks])
    mass = np.mean([mass_inside(map_, region) for map_, region in looks])
    size = len(regions[0])
    center, rng = center_prior(size), np.random.default_rng(0)
    centered = np.mean([pointing_game(center, region, MARGIN) for region in regions])
    at_random = np.mean([pointing_game(random_map(rng, size), r, MARGIN) for r in regions])
    assert pointed >= 0.8
    assert exactly >= 0.35
    assert centered < 0.3
    assert at_random < 0.3
    assert mass > 2 * np.mean([mass_inside(center, region) for region in regions])


@pytest.mark.slow
def test_random_weights_give_other_maps_that_point_nowhere(run: Path, data: Path) -> None:
    """The sanity check of Adebayo et al., 2018, with all weights drawn anew."""
    trained = open_discriminator(run)
    drawn = open_discriminator(run)
    torch.manual_seed(0)
    for module in drawn.model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    before, after = (
        [pair for pairs in find_maps(maker, data).values() for pair in pairs]
        for maker in (trained, drawn)
    )
    likeness = [
        np.corrcoef(old.ravel(), new.ravel())[0, 1]
        for (old, _), (new, _) in zip(before, after, strict=True)
        if new.any() and old.any()
    ]
    assert abs(np.nanmean(likeness)) < 0.3
    pointed = np.mean([pointing_game(map_, region, MARGIN) for map_, region in after])
    assert pointed < 0.4
