import pickle
import random
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from radrep.errors import DataError
from radrep.metrics.labeler import label_report
from radrep.preparation.sources.phantom import source as phantom
from radrep.preparation.sources.phantom.body import SIDES, Canvas, sample_body
from radrep.preparation.sources.phantom.drawing import EXTENTS, KINDS, SIZES, Finding, draw_phantom
from radrep.preparation.sources.phantom.source import (
    PhantomSource,
    draw_study,
    study_findings,
    study_regions,
)
from tests.metrics.labeler.test_labeler import OF_KIND

STUDIES = 2000


def scene(number: int) -> np.random.Generator:
    return np.random.default_rng(number)


def read(image) -> np.ndarray:
    return image.read(256)


@pytest.fixture(scope="module")
def drawn() -> list[tuple[Finding, ...]]:
    return [study_findings(0, index) for index in range(STUDIES)]


@pytest.fixture(scope="module")
def reports() -> list[str]:
    return [study.sections["findings"] for study in PhantomSource(STUDIES)]


@pytest.fixture(scope="module")
def changes() -> list[tuple[Finding, np.ndarray, np.ndarray]]:
    """One row a drawn finding: what it is, the film with it, the film without."""
    rows = []
    for index in range(70):
        findings = study_findings(3, index)
        film = draw_phantom(scene(index), findings, 256)
        for finding in findings:
            others = [other for other in findings if other != finding]
            rows.append((finding, film, draw_phantom(scene(index), others, 256)))
    return rows


@pytest.fixture(scope="module")
def largest_chests() -> list[int]:
    """Scenes with the largest lungs of two hundred."""

    def lung_area(number: int) -> float:
        rng = scene(number)
        return sum(lung.sum() for lung in sample_body(rng, Canvas(rng, 64)).lungs.values())

    return sorted(range(200), key=lung_area)[-5:]


def test_a_film_is_the_same_in_any_order_and_process():
    source = PhantomSource(6, seed=5, image_size=96)
    images = [study.images[0] for study in source]
    films = [image.read(256) for image in images]
    assert all(film.dtype == np.uint8 and film.shape == (96, 96) for film in films)
    assert all(not np.array_equal(films[0], film) for film in films[1:])
    order = random.Random(0).sample(range(6), 6)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        elsewhere = list(pool.map(read, [images[i] for i in order]))
    for i, film in zip(order, elsewhere, strict=True):
        np.testing.assert_array_equal(film, films[i])


def test_reading_can_be_pickled():
    image = next(iter(PhantomSource(1))).images[0]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(image)).read(256), image.read(256))


def test_the_first_studies_do_not_depend_on_how_many_there_are():
    short, long = list(PhantomSource(5, seed=2)), list(PhantomSource(50, seed=2))
    for one, other in zip(short, long, strict=False):
        assert one.sections == other.sections
        np.testing.assert_array_equal(one.images[0].read(256), other.images[0].read(256))


def test_larger_findings_cover_as_much_more_and_change_nothing_else():
    plain, large = list(PhantomSource(40)), list(PhantomSource(40, finding_scale=1.5))
    assert [study.sections for study in plain] == [study.sections for study in large]
    healthy = next(i for i in range(40) if not study_findings(0, i))
    assert np.array_equal(plain[healthy].images[0].read(64), large[healthy].images[0].read(64))
    for index in range(40):
        for one, other in zip(study_findings(0, index), study_findings(0, index, 1.5), strict=True):
            grown = {"nodule": 1.5**0.5, "atelectasis": 1.5**0.5}.get(one.kind, 1.5)
            assert other.extent == pytest.approx(grown * one.extent)
            assert (other.kind, other.side, other.size) == (one.kind, one.side, one.size)
    index = next(i for i in range(40) if study_findings(0, i))
    with_findings = (source[index].images[0].read(64) for source in (plain, large))
    assert not np.array_equal(*with_findings)


def test_another_seed_gives_other_studies():
    one, other = next(iter(PhantomSource(1, seed=1))), next(iter(PhantomSource(1, seed=2)))
    assert not np.array_equal(one.images[0].read(256), other.images[0].read(256))


def test_a_finding_covers_at_most_eight_percent_and_at_least_a_visible_spot(changes):
    shares = {kind: [] for kind in KINDS}
    for finding, film, without in changes:
        shares[finding.kind].append((film != without).mean())
    for kind, values in shares.items():
        assert len(values) > 8, kind
        assert max(values) <= 0.08, kind
        assert min(values) >= 0.001, kind


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_finding_covers_at_most_eight_percent_of_the_largest_chest(
    kind, largest_chests
):
    for number in largest_chests:
        finding = Finding(kind, "right", "large", EXTENTS[kind][-1][1], (0.5, 0.4), number)
        without = draw_phantom(scene(number), [], 128)
        assert (draw_phantom(scene(number), [finding], 128) != without).mean() <= 0.08


@pytest.fixture(scope="module")
def regions() -> list[tuple[Finding, np.ndarray, np.ndarray, np.ndarray]]:
    """One row a drawn finding: what it is, its region, the film with it, the film without."""
    rows = []
    for index in range(30):
        findings, film = study_findings(3, index), draw_study(3, index, 256)
        found = study_regions(3, index, 256)
        assert list(found) == [finding.kind for finding in findings]
        for finding in findings:
            others = [other for other in findings if other != finding]
            scene = np.random.default_rng([3, index, 0])
            rows.append((finding, found[finding.kind], film, draw_phantom(scene, others, 256)))
    return rows


def test_a_finding_changes_the_film_in_its_region_and_hardly_elsewhere(regions):
    for finding, region, film, without in regions:
        change = np.abs(film.astype(float) - without)
        assert region.dtype == bool
        # Blur and, at the edge, less than a quarter of its contrast reach beyond the region.
        assert change[region].sum() > 0.8 * change.sum(), finding
        assert (change[region] > 0).mean() > 0.9, finding
        assert change[region].mean() > 20 * change[~region].mean(), finding


def test_a_region_covers_at_most_eight_percent(regions):
    assert {finding.kind for finding, *_ in regions} == set(KINDS)
    assert all(0.001 < region.mean() <= 0.08 for _, region, *_ in regions)


def test_regions_lie_at_the_same_place_at_any_size():
    for index in range(8):
        small, large = study_regions(1, index, 96), study_regions(1, index, 256)
        assert list(small) == list(large)
        for kind in small:
            both = small[kind], large[kind]
            centers = [np.argwhere(region).mean(axis=0) / len(region) for region in both]
            np.testing.assert_allclose(*centers, rtol=0, atol=0.03)
            assert small[kind].mean() == pytest.approx(large[kind].mean(), rel=0.4)


def test_a_finding_can_be_told_from_the_grain(changes):
    for finding, film, without in changes:
        change = film.astype(float) - without
        strength = np.abs(change[change != 0]).mean()
        assert strength > 5, finding
        assert np.sign(change.sum()) == (-1 if finding.kind == "pneumothorax" else 1), finding


def test_a_finding_changes_only_the_half_of_its_side(changes):
    for finding, film, without in changes:
        columns = np.nonzero(film != without)[1]
        on_the_left_of_the_image = columns.mean() < 128
        # The patient's right is on the left of the film.
        assert on_the_left_of_the_image == (finding.side == "right"), finding


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_word_orders_what_is_drawn(kind):
    for number in range(3):
        without = draw_phantom(scene(number), [], 256)
        areas = []
        for size, (low, high) in zip(SIZES, EXTENTS[kind], strict=True):
            finding = Finding(kind, "left", size, (low + high) / 2, (0.5, 0.4), number)
            areas.append((draw_phantom(scene(number), [finding], 256) != without).sum())
        assert areas[0] < areas[1] < areas[2], areas


def test_extents_lie_within_the_range_of_their_word(drawn):
    for finding in (finding for findings in drawn for finding in findings):
        low, high = EXTENTS[finding.kind][SIZES.index(finding.size)]
        assert low <= finding.extent <= high


def test_findings_differ_in_place_size_and_contrast(changes):
    for kind in ("consolidation", "nodule", "atelectasis"):
        here = [row for row in changes if row[0].kind == kind]
        rows = [np.nonzero(film != without)[0].mean() for _, film, without in here]
        assert np.std(rows) > 15, kind  # of 256 pixels
    for kind in KINDS:
        here = [row for row in changes if row[0].kind == kind]
        sizes = [(film != without).sum() for _, film, without in here]
        strengths = [
            np.abs(film.astype(float) - without)[film != without].mean()
            for _, film, without in here
        ]
        assert np.std(sizes) > 0.2 * np.mean(sizes), kind
        assert np.std(strengths) > 0.1 * np.mean(strengths), kind


def test_prevalence_and_sides_are_balanced(drawn):
    for kind in KINDS:
        sides = [f.side for findings in drawn for f in findings if f.kind == kind]
        assert 0.20 <= len(sides) / STUDIES <= 0.28, kind
        assert 0.10 <= sides.count("left") / STUDIES <= 0.14, kind
        assert 0.10 <= sides.count("right") / STUDIES <= 0.14, kind
        sizes = [f.size for findings in drawn for f in findings if f.kind == kind]
        assert all(sizes.count(size) > 0.25 * len(sizes) for size in SIZES), kind


def test_studies_are_normal_or_have_one_or_several_findings(drawn):
    counts = np.bincount([len(findings) for findings in drawn]) / STUDIES
    assert counts[0] > 0.15
    assert counts[1] > 0.2
    assert counts[2:].sum() > 0.2


def test_findings_of_different_kinds_are_independent(drawn):
    table = np.array([[any(f.kind == k for f in findings) for k in KINDS] for findings in drawn])
    correlation = np.corrcoef(table.T) - np.eye(len(KINDS))
    assert np.abs(correlation).max() < 0.08  # 3.5 standard errors of no correlation


def test_nothing_but_the_findings_tells_the_findings(drawn):
    # Pose and exposure: everything outside the changed pixels is the film without findings, and
    # that film comes from a stream that the findings do not touch.
    index = next(i for i, findings in enumerate(drawn) if len(findings) == 1)
    film = draw_study(0, index, 256)
    assert (film != draw_phantom(np.random.default_rng([0, index, 0]), [], 256)).mean() < 0.08
    # Place in the file: no trend of the number of findings with the index, none by its parity.
    counts = np.array([len(findings) for findings in drawn])
    assert abs(np.corrcoef(np.arange(STUDIES), counts)[0, 1]) < 0.08
    assert abs(counts[::2].mean() - counts[1::2].mean()) < 0.16


def test_pose_and_exposure_do_not_depend_on_the_findings(drawn, monkeypatch):
    monkeypatch.setattr(phantom, "study_findings", lambda *_, **__: ())
    films = np.array([draw_study(0, index, 64) for index in range(400)], dtype=float)
    weights, ramp = films / films.sum(axis=(1, 2), keepdims=True), np.arange(64) - 31.5
    healthy = {
        "brightness": films.mean(axis=(1, 2)),
        "contrast": films.std(axis=(1, 2)),
        "across": weights.sum(axis=1) @ ramp,
        "down": weights.sum(axis=2) @ ramp,
        "tilt": np.einsum("nyx,y,x->n", weights, ramp, ramp),
        "grain": np.abs(np.diff(films, axis=2)).mean(axis=(1, 2)),
    }
    for kind in KINDS:
        for side in SIDES:
            present = [any((f.kind, f.side) == (kind, side) for f in fs) for fs in drawn[:400]]
            for name, values in healthy.items():
                correlation = np.corrcoef(values, present)[0, 1]
                assert abs(correlation) < 0.2, (kind, side, name)  # four standard errors of none


def test_pose_and_exposure_vary():
    films = [draw_phantom(scene(i), [], 128).astype(float) for i in range(40)]
    body = [np.argwhere(film > 60) for film in films]
    assert np.std([pixels[:, 1].mean() for pixels in body]) > 1.5  # pixels of 128, sideways
    assert np.std([film.mean() for film in films]) > 8  # of 255
    assert np.std([np.abs(np.diff(film[:12, :12])).mean() for film in films]) > 0.5  # grain


def test_a_report_names_what_was_drawn_and_only_that(drawn, reports):
    for findings, report in zip(drawn, reports, strict=True):
        assert label_report(report).sides == {OF_KIND[f.kind]: f.side for f in findings}, report


def test_a_report_names_each_size(drawn, reports):
    for findings, report in zip(drawn, reports, strict=True):
        words = report.lower().split()
        for size in SIZES:
            assert words.count(size) == sum(f.size == size for f in findings), report


def test_no_report_denies_a_finding_that_is_there(drawn, reports):
    for findings, report in zip(drawn, reports, strict=True):
        denials = [s for s in report.lower().split(".") if " no " in f" {s} "]
        lungs = {"consolidation", "nodule", "atelectasis"} & {f.kind for f in findings}
        assert not any(f.kind in sentence for f in findings for sentence in denials), report
        assert not ("clear" in report and lungs), report


def test_reports_are_short_and_varied(reports):
    words = [report.lower().replace(".", " ").replace(",", " ").split() for report in reports]
    assert len({word for report in words for word in report}) <= 120
    assert max(map(len, words)) <= 50
    assert len(set(reports)) > STUDIES / 2


def test_splits_come_in_order_and_in_the_counts_said():
    source = PhantomSource(50, splits=(0.7, 0.1, 0.2))
    splits = [study.split for study in source]
    assert splits == ["train"] * 35 + ["val"] * 5 + ["test"] * 10
    assert source.expected_counts == {"train": 35, "val": 5, "test": 10}
    assert len(source) == 50
    assert len({study.id for study in source}) == 50
    assert len({study.patient_id for study in source}) == 50


def test_a_fingerprint_changes_with_every_parameter():
    sources = [
        PhantomSource(10),
        PhantomSource(11),
        PhantomSource(10, seed=1),
        PhantomSource(10, image_size=128),
        PhantomSource(10, splits=(0.6, 0.2, 0.2)),
        PhantomSource(10, finding_scale=1.5),
        PhantomSource(10, priors=True),
    ]
    assert len({source.fingerprint() for source in sources}) == len(sources)
    assert PhantomSource(10).fingerprint() == sources[0].fingerprint()


@pytest.mark.parametrize("size", [64, 300])
def test_any_size_shows_the_same_film(size):
    film, small = draw_study(0, 3, 256).astype(float), draw_study(0, 3, size)
    assert small.shape == (size, size)
    coarse = [
        np.array(
            [
                block.mean()
                for row in np.array_split(f, 16)
                for block in np.array_split(row, 16, axis=1)
            ]
        )
        for f in (film, small)
    ]
    assert np.corrcoef(*coarse)[0, 1] > 0.98


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"num_studies": 0}, "num_studies must be at least 1, got 0"),
        ({"num_studies": 5, "seed": -1}, "seed must not be negative, got -1"),
        ({"num_studies": 5, "image_size": 32}, "image_size must be at least 64, got 32"),
        ({"num_studies": 5, "finding_scale": 2.5}, "finding_scale must be 0.5 to 2, got 2.5"),
        ({"num_studies": 5, "priors": True}, "with priors num_studies must be even, got 5"),
        ({"num_studies": 5, "splits": (0.5, 0.1, 0.1)}, "add up to 1"),
        ({"num_studies": 5, "splits": (1.2, -0.1, -0.1)}, "add up to 1"),
    ],
)
def test_wrong_parameters_are_refused(parameters, message):
    with pytest.raises(DataError, match=message):
        PhantomSource(**parameters)
