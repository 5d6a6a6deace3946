"""From a trained discriminator to a report model that looks through it, by the commands."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.metrics import f1_score

from radrep.data.manifest import PREPARED
from radrep.data.saliency_store import SaliencyImages
from radrep.data.store import PreparedStudies
from radrep.errors import DataError
from radrep.inference.generator import ReportGenerator
from radrep.metrics.labeler import OBSERVATIONS
from radrep.recipe.data import Saliency
from radrep.saliency.masks import aggregate_maps, make_mask, mask_image
from radrep.saliency.sdam import mask_fingerprint
from radrep.training.labels import LabelReader, check_labels
from radrep.weights.files import write_checksums
from tests.saliency.localisation import open_discriminator
from tests.whole_way import (
    draw_prepared,
    radrep,
    read_metrics,
    start_radrep,
    write_films,
    write_recipe,
)

DISCRIMINATOR: dict[str, Any] = {
    "name": "discriminator",
    "backbone": {"name": "test_resnet.r160_in1k", "weights": "none", "stride": 8},
    "labels": "reports",
    "enhancer": None, "memory": None, "transformer": None,
}  # fmt: skip


def write_discriminator(folder: Path, prepared: Path, **model: Any) -> Path:
    """The recipe of a tiny discriminator."""
    path = write_recipe(folder, prepared, train={"monitor": "val/auroc"})
    import yaml

    recipe = yaml.safe_load(path.read_text())
    recipe["model"] = {k: v for k, v in (DISCRIMINATOR | model).items() if v is not None}
    frozen = recipe["model"]["backbone"].get("frozen", False)
    recipe["data"] |= {"target": "both", "random_crop": not frozen}
    del recipe["decode"]
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture(scope="module")
def own_phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms of this module alone, since masked images are put into their folder."""
    return draw_prepared(tmp_path_factory.mktemp("phantoms") / "data")


@pytest.fixture(scope="module")
def discriminator(tmp_path_factory: pytest.TempPathFactory, own_phantoms: Path) -> Path:
    folder = tmp_path_factory.mktemp("discriminator")
    result = radrep("train", write_discriminator(folder, own_phantoms))
    assert result.exit_code == 0, result.output
    assert "reports: No Finding" in result.output
    return folder / "run"


@pytest.fixture(scope="module")
def masked(own_phantoms: Path, discriminator: Path) -> Path:
    """The folder of the masked images."""
    result = radrep(
        "prepare", "saliency", "--data", own_phantoms, "--checkpoint", discriminator, "--label-maps"
    )
    assert result.exit_code == 0, result.output
    (folder,) = (own_phantoms / "saliency").iterdir()
    assert f"{folder.resolve()} is ready." in result.output.replace("\n", "")
    return folder


def saliency_section(discriminator: Path, **changes: Any) -> dict[str, Any]:
    return {"images": "views+mask", "saliency": {"discriminator": str(discriminator), **changes}}


@pytest.fixture(scope="module")
def looking_run(
    tmp_path_factory: pytest.TempPathFactory, own_phantoms: Path, discriminator: Path, masked: Path
) -> Path:
    """A report model that is given the film and its masked twin."""
    folder = tmp_path_factory.mktemp("looking")
    recipe = write_recipe(folder, own_phantoms, data=data_of(own_phantoms, discriminator))
    result = radrep("train", recipe)
    assert result.exit_code == 0, result.output
    return folder / "run"


def data_of(prepared: Path, discriminator: Path, **changes: Any) -> dict[str, Any]:
    return {"prepared": str(prepared), **saliency_section(discriminator, **changes)}


def test_the_thresholds_are_those_of_the_best_f1_on_validation(
    discriminator: Path, own_phantoms: Path
) -> None:
    thresholds = load_file(discriminator / "best/weights.safetensors")["thresholds"]
    drawn = {"Consolidation", "Lung Lesion", "Atelectasis", "Pleural Effusion", "Pneumothorax"}
    never = {name for name, t in zip(OBSERVATIONS, thresholds, strict=True) if t == 1}
    assert set(OBSERVATIONS) - drawn - {"No Finding"} <= never  # phantoms never have them
    maker = open_discriminator(discriminator)
    studies = PreparedStudies(own_phantoms, "val")
    labels = LabelReader(studies, source="reports", uncertain="ignore")
    table = np.stack([labels(study) for study in studies])
    summaries = [maker.summarize(studies.read_images(index)[0]) for index in range(len(studies))]
    for i, name in enumerate(OBSERVATIONS):
        if name in never:
            continue
        found = np.array([summary.probabilities[name] for summary in summaries])
        ours = f1_score(table[:, i], found > float(thresholds[i]))
        others = [f1_score(table[:, i], found > t) for t in np.linspace(0, 1, 101)]
        assert ours >= max(others) - 1e-9, name


@pytest.mark.slow
def test_two_processes_train_it_like_one(tmp_path: Path, own_phantoms: Path) -> None:
    frozen = DISCRIMINATOR["backbone"] | {"frozen": True}
    curves, thresholds = [], []
    for name, size in (("one", 8), ("two", 4)):
        (tmp_path / name).mkdir()
        recipe = write_discriminator(tmp_path / name, own_phantoms, backbone=frozen)
        words = ["radrep", "train", str(recipe), "--set", f"train.batch_size={size}"]
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = [sys.executable, *(launcher if name == "two" else []), "-m", *words]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        run = tmp_path / name / "run"
        curves.append([row["loss"] for row in read_metrics(run) if "loss" in row])
        thresholds.append(load_file(run / "best/weights.safetensors")["thresholds"])
    assert curves[0] == pytest.approx(curves[1], rel=2e-3)
    torch.testing.assert_close(thresholds[0], thresholds[1], atol=2e-3, rtol=0)


def test_its_scores_stand_by_label(discriminator: Path, tmp_path: Path) -> None:
    result = radrep("eval", discriminator, "--split", "val", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    scores = json.loads((tmp_path / "scores-val.json").read_text())
    rows = {row["name"]: row for row in scores["labels"]}
    assert set(rows) == set(OBSERVATIONS)
    assert scores["num_studies"] == rows["No Finding"]["num_known"] == 8
    best = max(row["val/auroc"] for row in read_metrics(discriminator) if "val/auroc" in row)
    assert scores["macro auroc"] == pytest.approx(best, abs=1e-6)
    shuffled = scores["macro auroc, images shuffled"]
    assert shuffled != scores["macro auroc"]
    for said in (
        "AUROC",
        f"With the images shuffled the mean AUROC is {shuffled:.3f}",
        "No Finding",
        "scores-val.json",
    ):
        assert said in result.output


def test_a_masked_image_is_its_film_under_the_maps_of_what_fired(
    own_phantoms: Path, discriminator: Path, masked: Path
) -> None:
    maker = open_discriminator(discriminator)
    studies = PreparedStudies(own_phantoms, "train")
    made = SaliencyImages(masked, "train", maker.fingerprint)
    assert len(made) == len(studies) == 32
    whole = 0
    for index, study in enumerate(studies):
        (film,), row = studies.read_images(index), made.read(study.id)
        summary = maker.summarize(film)
        assert row.labels == pytest.approx(summary.predicted_positive, abs=1e-6)
        assert set(row.label_maps) == set(row.labels)
        whole += row.unmasked
        if row.unmasked:
            assert (row.masked == film).all()
            assert (row.map == 255).all()
            continue
        small = torch.stack([torch.from_numpy(summary.maps[name]) for name in row.labels])
        maps = maker.enlarge(small, film)
        expected = mask_image(film, make_mask(aggregate_maps(maps, "max"), "hard", 0.5))
        assert (row.masked == expected).all()
        assert (row.masked == summary.masked).all()
        assert set(np.unique(row.masked[row.masked != film])) <= {0}
    record = json.loads((masked / PREPARED).read_text())
    assert record["counts"] == {"train": 32, "val": 8, "test": 8}
    assert whole <= record["num_no_positive"] + record["num_empty_map"] < 48
    assert np.asarray(Image.open(masked / "contact_sheet.png")).ndim == 3


def test_the_same_again_is_not_done_again(
    own_phantoms: Path, discriminator: Path, masked: Path
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in masked.iterdir()}
    again = radrep("prepare", "saliency", "--data", own_phantoms, "--checkpoint", discriminator)
    assert again.exit_code == 0, again.output
    assert "nothing was done" in again.output
    assert before == {path.name: path.stat().st_mtime_ns for path in masked.iterdir()}


def test_other_settings_lie_beside(own_phantoms: Path, discriminator: Path, masked: Path) -> None:
    words = ("prepare", "saliency", "--data", own_phantoms, "--checkpoint", discriminator)
    assert radrep(*words, "--mask", "soft").exit_code == 0
    section = Saliency(discriminator=discriminator, mask="soft")
    folder = own_phantoms / "saliency" / mask_fingerprint(section)[:12]
    soft = SaliencyImages(folder, "val", mask_fingerprint(section))
    hard = SaliencyImages(masked, "val", mask_fingerprint(Saliency(discriminator=discriminator)))
    studies = PreparedStudies(own_phantoms, "val")
    rows = [(soft.read(study.id), hard.read(study.id)) for study in studies]
    assert all((a.map == b.map).all() for a, b in rows)
    assert any((a.masked != b.masked).any() for a, b in rows)
    wanted = radrep(*words, "--mask", "soft", "--label-maps")
    assert wanted.exit_code == 2
    assert "without the maps of single labels" in wanted.stderr


def test_masks_of_an_older_radrep_end_in_one_error(
    tmp_path: Path, own_phantoms: Path, discriminator: Path, masked: Path
) -> None:
    prepared = shutil.copytree(own_phantoms, tmp_path / "data")
    folder = prepared / "saliency" / masked.name
    record = json.loads((folder / PREPARED).read_text())
    for name, older in (
        ("num_no_positive", "not_fired"),
        ("num_empty_map", "no_place"),
        ("predicted_positive", "fired"),
    ):
        record[older] = record.pop(name)
    del record["sha256"]
    (folder / PREPARED).write_text(json.dumps(record))
    for path in folder.glob("*.arrow"):
        with pa.ipc.open_stream(path.read_bytes()) as reader:
            table = reader.read_all()
        names = ["kept_whole" if name == "unmasked" else name for name in table.column_names]
        table = table.rename_columns(names)
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    result = radrep("prepare", "saliency", "--data", prepared, "--checkpoint", discriminator)
    assert result.exit_code == 2
    error = " ".join(result.stderr.split())
    assert error.count("was made by an older radrep. Remove it and make it again with:") == 1
    assert "Traceback" not in error
    assert before == {path: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_a_stopped_run_goes_on(tmp_path: Path, discriminator: Path) -> None:
    """Shards that are whole are kept over Ctrl-C, and the rest is made by the same command."""
    prepared = draw_prepared(tmp_path / "data", 1800)
    words = ("prepare", "saliency", "--data", prepared, "--checkpoint", discriminator)
    process = start_radrep(*words)
    deadline = time.monotonic() + 120
    while not list(prepared.glob("saliency/*.partial/train-00000.arrow.summary.json")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command resumes" in " ".join(told.split())
    result = radrep(*words)
    assert result.exit_code == 0, result.output
    assert "shards are done already" in result.output
    (folder,) = (prepared / "saliency").iterdir()
    record = json.loads((folder / PREPARED).read_text())
    assert record["counts"] == {"train": 1200, "val": 300, "test": 300}
    shutil.rmtree(folder)
    assert radrep(*words).exit_code == 0
    unbroken = json.loads((folder / PREPARED).read_text())
    assert record["shards"] == unbroken["shards"]


@pytest.mark.slow
def test_generate_masks_a_new_film_as_prepare_did(
    looking_run: Path, own_phantoms: Path, masked: Path, tmp_path: Path
) -> None:
    """What evaluation reads from the masked images, generate makes on the fly: equal reports."""
    out = tmp_path / "scores"
    result = radrep("eval", looking_run, "--split", "val", "--out", out, "--no-meteor")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (out / "predictions-val.jsonl").read_text().splitlines()]
    films = write_films(own_phantoms, tmp_path / "films", "val")
    writer = ReportGenerator(looking_run)
    assert writer.discriminator is not None
    prepared = SaliencyImages(masked, "val", writer.discriminator.fingerprint)
    for row, film in zip(rows, films, strict=False):
        written = radrep("generate", film, "--checkpoint", looking_run)
        assert written.stdout.strip() == row["generated"]
        assert (writer.write(film).masked == prepared.masked(film.stem)).all()
    picture = tmp_path / "looks.png"
    words = ("generate", films[0], "--checkpoint", looking_run, "--heatmap", picture)
    drawn = radrep(*words, "--projection", "frontal")
    assert drawn.exit_code == 0, drawn.output
    assert np.asarray(Image.open(picture)).shape[1] > 600


def test_the_masked_view_reaches_the_model(looking_run: Path, own_phantoms: Path) -> None:
    film = write_films(own_phantoms, looking_run.parent / "films", "test", 1)[0]
    written = ReportGenerator(looking_run).write(film, explain=True)
    assert len(written.attention) == 2  # the film and its masked twin
    assert written.masked is not None
    assert float(np.sum(written.attention)) == pytest.approx(1, abs=1e-5)
    assert all(len(f.grad_cam) == 2 for f in written.finding_maps)


@pytest.mark.slow
def test_a_discriminator_trained_again_is_not_taken_for_the_old_one(
    looking_run: Path, discriminator: Path, own_phantoms: Path, tmp_path: Path
) -> None:
    weights = discriminator / "best/weights.safetensors"
    old = tmp_path / "old"
    shutil.copytree(discriminator / "best", old)
    film = write_films(own_phantoms, looking_run.parent / "films", "test", 1)[0]
    before = radrep("generate", film, "--checkpoint", looking_run).stdout
    try:
        state = load_file(weights)
        state["classifier.bias"] += 0.1
        save_file(state, weights, {"prepared_size": "64"})
        write_checksums(weights.parent)
        result = radrep("generate", film, "--checkpoint", looking_run)
        assert result.exit_code == 2
        assert "it was trained again" in " ".join(result.stderr.split())
        words = ("generate", film, "--checkpoint", looking_run, "--discriminator", old)
        assert radrep(*words).stdout == before
        # Its masked images are still there, and it knows them.
        out = tmp_path / "scores"
        result = radrep("eval", looking_run, "--split", "val", "--out", out, "--no-meteor")
        assert result.exit_code == 0, result.output
        resumed = radrep("train", looking_run, "--resume")
        assert resumed.exit_code == 2
        assert "has no masked images by" in " ".join(resumed.stderr.split())
        words = ("prepare", "saliency", "--data", own_phantoms, "--checkpoint", discriminator)
        assert radrep(*words).exit_code == 0
        resumed = radrep("train", looking_run, "--resume")
        assert resumed.exit_code == 2
        assert "it was trained again" in " ".join(resumed.stderr.split())
    finally:
        weights.write_bytes((old / "weights.safetensors").read_bytes())
        write_checksums(weights.parent)


def test_masked_images_that_were_changed_are_found(
    own_phantoms: Path, masked: Path, tmp_path: Path
) -> None:
    assert radrep("data", "check", own_phantoms).exit_code == 0
    inside = radrep("data", "check", masked)
    assert inside.exit_code == 2
    assert "part of a prepared folder" in " ".join(inside.stderr.split())
    copy = tmp_path / "data"
    shutil.copytree(own_phantoms, copy)
    shard = copy / "saliency" / masked.name / "val-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    changed = radrep("data", "check", copy)
    assert changed.exit_code == 1
    assert "val-00000.arrow was changed" in " ".join((changed.stdout + changed.stderr).split())


def test_training_without_masked_images_states_how_to_make_them(
    tmp_path: Path, own_phantoms: Path, discriminator: Path
) -> None:
    recipe = write_recipe(
        tmp_path, own_phantoms, data=data_of(own_phantoms, discriminator, threshold=0.25)
    )
    result = radrep("train", recipe)
    assert result.exit_code == 2
    told = " ".join(result.stderr.split())
    assert f"radrep prepare saliency --data {own_phantoms}" in told
    assert "--threshold 0.25" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_cached_features_know_whose_masks_they_are_of(
    tmp_path: Path, own_phantoms: Path, discriminator: Path, masked: Path
) -> None:
    """With other masks the same images have other features; bare images have the same."""
    words = ("prepare", "saliency", "--data", own_phantoms, "--checkpoint", discriminator)
    assert radrep(*words, "--mask", "soft").exit_code == 0
    frozen = {"name": "test_resnet.r160_in1k", "weights": "none", "frozen": True}
    recipe = write_recipe(
        tmp_path,
        own_phantoms,
        data=data_of(own_phantoms, discriminator) | {"random_crop": False},
        model={"backbone": frozen},
        train={"epochs": 1},
    )
    features = Path(os.environ["RADREP_CACHE"]) / "features"
    known: set[Path] = set()
    made = []
    for number, pair in enumerate(("views+mask", "views+mask", "views")):
        for mask in ("hard", "soft"):
            changes = [f"data.images={pair}", f"data.saliency.mask={mask}"]
            if pair == "views":
                changes.pop()
            words = [word for change in changes for word in ("--set", change)]
            result = radrep("train", recipe, *words, "--out", tmp_path / f"{number}{mask}")
            assert result.exit_code == 0, result.output
            made.append(not known >= (now := set(features.iterdir())))
            known = now
    assert made == [True, True, False, False, True, False]


@pytest.mark.parametrize("wrong", ["missing", "report model"])
def test_prepare_saliency_refuses_what_is_no_discriminator(
    own_phantoms: Path, trained_run: Path, tmp_path: Path, wrong: str
) -> None:
    run = trained_run if wrong == "report model" else tmp_path / "nothing"
    result = radrep("prepare", "saliency", "--data", own_phantoms, "--checkpoint", run)
    assert result.exit_code == 2
    said = "no discriminator" if wrong == "report model" else "not found"
    assert said in " ".join(result.stderr.split())


def test_generate_and_eval_do_not_take_a_discriminator_for_a_report_model(
    discriminator: Path, own_phantoms: Path
) -> None:
    film = write_films(own_phantoms, discriminator.parent / "films", "test", 1)[0]
    result = radrep("generate", film, "--checkpoint", discriminator)
    assert result.exit_code == 2
    assert "is a discriminator and writes no reports" in " ".join(result.stderr.split())


def test_a_discriminator_takes_no_masked_images(tmp_path: Path, own_phantoms: Path) -> None:
    recipe = write_discriminator(tmp_path, own_phantoms)
    words = ("--set", "data.images=frontal+mask", "--set", "data.saliency.discriminator=x")
    result = radrep("train", recipe, *words)
    assert result.exit_code == 2
    assert "is for models that write reports" in " ".join(result.stderr.split())
    vain = radrep("train", recipe, "--set", "data.saliency.discriminator=x")
    assert "has no effect without data.images" in " ".join(vain.stderr.split())


def test_labels_that_cannot_be_scored_are_refused_at_once(
    tmp_path: Path, own_phantoms: Path
) -> None:
    """A validation in which every study has the same labels: before anything is trained."""
    studies = PreparedStudies(own_phantoms, "val")
    with pytest.raises(DataError, match="no label is both present and absent in val"):
        check_labels(lambda study: np.zeros(14, np.float32), studies)


def test_a_pair_without_its_discriminator_is_a_mistake_of_the_recipe(
    tmp_path: Path, own_phantoms: Path
) -> None:
    recipe = write_recipe(tmp_path, own_phantoms)
    result = radrep("train", recipe, "--set", "data.images=frontal+mask")
    assert result.exit_code == 2
    assert "must name a discriminator for data.images frontal+mask" in " ".join(
        result.stderr.split()
    )


def test_a_set_without_a_table_of_labels_is_named_so(tmp_path: Path, own_phantoms: Path) -> None:
    recipe = write_discriminator(tmp_path, own_phantoms, labels="table")
    result = radrep("train", recipe)
    assert result.exit_code == 2
    assert "labels: reports" in " ".join(result.stderr.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "raw", "vocabulary", "unknown"),
    [
        ("folder", "nih_chestxray14_100", "nih", "Support Devices"),
        ("mimic", "mimic_cxr_like", "chexpert", None),
    ],
)
def test_labels_of_real_tables_are_learned(
    data_dir: Path, tmp_path: Path, source: str, raw: str, vocabulary: str, unknown: str | None
) -> None:
    """Without reports (NIH), and beside reports that nobody reads (MIMIC's layout)."""
    out = tmp_path / "data"
    words = ("prepare", source, "--raw", data_dir / raw, "--out", out, "--image-size", "64")
    prepared = radrep(*words, "--workers", "1")
    assert prepared.exit_code == 0, prepared.output
    result = radrep("train", write_discriminator(tmp_path, out, labels="table"))
    assert result.exit_code == 0, result.output
    assert f"{vocabulary}: No Finding" in result.output
    result = radrep("eval", tmp_path / "run", "--split", "val")
    assert result.exit_code == 0, result.output
    scores = json.loads((tmp_path / "run/scores-val.json").read_text())
    known = {row["name"]: row["num_known"] for row in scores["labels"]}
    assert known["No Finding"] > 0
    assert unknown is None or known[unknown] == 0
