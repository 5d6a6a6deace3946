import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps

from radrep.data.preprocess import Preprocess

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def draw(height: int = 300, width: int = 256) -> np.ndarray:
    noise = np.random.default_rng(3).integers(40, 200, (height // 4 + 1, width // 4 + 1))
    return np.array(Image.fromarray(noise.astype(np.uint8)).resize((width, height)))


def to_pixels(images: torch.Tensor) -> np.ndarray:
    """Undo the normalisation: (3, h, w) to uint8 (h, w), after checking that channels agree."""
    grey = images * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    torch.testing.assert_close(grey[0], grey[2])
    return np.rint(grey[0].numpy() * 255).astype(np.uint8)


def test_evaluation_squashes_the_whole_image_and_normalises_it():
    image = draw()
    out = Preprocess(224, MEAN, STD).evaluate(image)
    assert out.shape == (3, 224, 224)
    assert out.dtype == torch.float32
    squashed = Image.fromarray(image).resize((224, 224), Image.Resampling.BILINEAR)
    assert np.array_equal(to_pixels(out), np.array(squashed))


def test_training_cuts_squares_at_random_from_a_short_side_of_256():
    image = draw()  # its short side is 256 already, so nothing is resized
    squares = np.lib.stride_tricks.sliding_window_view(image, (224, 224))
    places = []
    for seed in range(4):
        out = Preprocess(224, MEAN, STD).train(image, torch.Generator().manual_seed(seed))
        found = np.argwhere((squares[:, :, 0] == to_pixels(out)[0]).all(axis=-1))
        (place,) = [tuple(p) for p in found if np.array_equal(squares[*p], to_pixels(out))]
        places.append(place)
    tops, lefts = zip(*places, strict=True)
    assert len(set(tops)) > 1
    assert len(set(lefts)) > 1


def test_training_scales_other_sizes_in_the_same_ratio():
    out = Preprocess(64, MEAN, STD).train(draw(512, 900), torch.Generator().manual_seed(1))
    assert out.shape == (3, 64, 64)
    whole = Image.fromarray(draw(512, 900)).resize((128, 73), Image.Resampling.BILINEAR)
    assert any(
        np.array_equal(np.array(whole)[top : top + 64, left : left + 64], to_pixels(out))
        for top in range(10)
        for left in range(65)
    )


def test_training_depends_on_the_generator_alone():
    preprocess = Preprocess(224, MEAN, STD)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 1, 2)]
    first, again, other = (preprocess.train(draw(), generator) for generator in generators)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # What is drawn does not depend on the image, the settings or the kind of image.
    published = Preprocess(224, MEAN, STD, equalize_and_sharpen=True, random_flip=True)
    generator = torch.Generator().manual_seed(1)
    published.train(draw(256, 256), generator, saliency=True)
    assert torch.equal(generator.get_state(), generators[0].get_state())


@pytest.mark.parametrize("resized_crop", [False, True])
def test_crops_are_flipped_only_where_asked(resized_crop):
    # An image that grows brighter to the right grows darker after a flip.
    ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    for flip, expected in ((False, {True}), (True, {True, False})):
        preprocess = Preprocess(224, MEAN, STD, random_flip=flip, resized_crop=resized_crop)
        seen = set()
        for seed in range(20):
            out = preprocess.train(ramp, torch.Generator().manual_seed(seed))
            seen.add(bool(out[0, 100, 10] < out[0, 100, 200]))
        assert seen == expected


def test_equalising_and_sharpening_precede_resizing():
    image = draw()
    sharp = ImageOps.equalize(Image.fromarray(image)).filter(ImageFilter.SHARPEN)
    expected = np.array(sharp.resize((224, 224), Image.Resampling.BILINEAR))
    out = Preprocess(224, MEAN, STD, equalize_and_sharpen=True).evaluate(image)
    assert np.array_equal(to_pixels(out), expected)


@pytest.mark.parametrize("enhance", [True, False])
def test_a_saliency_image_is_neither_equalised_nor_sharpened(enhance):
    image = draw()
    plain = Preprocess(224, MEAN, STD).evaluate(image)
    saliency = Preprocess(224, MEAN, STD, equalize_and_sharpen=enhance).evaluate(
        image, saliency=True
    )
    assert torch.equal(saliency, plain)


def test_preprocessing_leaves_the_image_as_it_was():
    image = draw()
    before = image.copy()
    preprocess = Preprocess(224, MEAN, STD, equalize_and_sharpen=True, random_flip=True)
    preprocess.train(image, torch.Generator())
    preprocess.evaluate(image)
    assert np.array_equal(image, before)
