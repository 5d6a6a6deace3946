"""The cache of image features: keyed by what decides them, each block made once."""

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from filelock import FileLock
from safetensors.torch import load_file
from torch import Tensor, nn

from radrep.data.dataset import ModelStudies
from radrep.data.image_selection import ImageSelection, View
from radrep.data.preprocess import Preprocess
from radrep.errors import DataError, RadrepError
from radrep.guidance.image_features import FilmStatistics, StageSummaries
from radrep.modules.backbone import Backbone
from radrep.progress import Advance, Reporter
from radrep.training.features import entry as entry_module
from radrep.training.features import image_pass
from radrep.training.features.cache import cached_features
from radrep.training.features.entry import FeatureStore
from radrep.training.features.selected_images import SelectedImages
from tests.crash.contents import read_contents
from tests.whole_way import TINY, radrep, read_metrics, write_recipe


def test_frozen_features_are_computed_once(
    tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = TINY["model"] | {"backbone": TINY["model"]["backbone"] | {"frozen": True}}
    data = TINY["data"] | {"random_crop": False, "prepared": str(phantoms)}
    recipe = write_recipe(tmp_path, phantoms, train={"epochs": 1}, model=model, data=data)
    read, evaluate = [], Preprocess.evaluate

    def note(*given: Any, **more: Any) -> Tensor:
        read.append(given)
        return evaluate(*given, **more)

    monkeypatch.setattr(Preprocess, "evaluate", note)
    first = radrep("train", recipe)
    assert "image features" in first.stderr
    assert len(read) == 32 + 8 + 2, "one pass for all features; the first image for their shape"
    entries = list((tmp_path / "cache/features").iterdir())
    assert len(entries) == 4, "train and val; statistics and films of train, for selection"
    again = radrep("train", recipe)
    assert "from the cache, 32 images of train" in again.stderr
    assert read_metrics(tmp_path / "run") == read_metrics(tmp_path / "run-2")
    assert "32" in radrep("cache").stdout
    (tmp_path / "cache/language_models/some-gguf").mkdir(parents=True)
    (tmp_path / "cache/language_models/some-gguf/weights").write_bytes(bytes(10))
    assert "some-gguf" in radrep("cache").stdout.replace("\n", "")
    assert "MB freed" in radrep("cache", "clear").stdout
    assert not list((tmp_path / "cache").glob("*/*-gguf"))
    assert not (tmp_path / "cache/features").exists()


def test_later_stages_learn_from_cached_maps_of_the_first_ones_and_a_report_model_learns_on(
    tmp_path: Path, phantoms: Path
) -> None:
    backbone = TINY["model"]["backbone"] | {"frozen_stages": 3}
    file = write_recipe(tmp_path, phantoms, model={"backbone": backbone})
    recipe = yaml.safe_load(file.read_text())
    own = {"labels": "reports", "words": 10, "backbone": backbone}
    recipe["model"] = {"name": "discriminator", **own}
    recipe["data"] |= {"target": "both", "random_crop": True}
    recipe["train"] |= {"epochs": 1, "monitor": "val/auroc"}
    del recipe["decode"]
    weights = []
    for rate in (0.001, 0.01):
        file.write_text(yaml.safe_dump(recipe | {"optim": recipe["optim"] | {"encoder_lr": rate}}))
        result = radrep("train", file)
        assert result.exit_code == 0, result.output
        run = max(tmp_path.glob("run*"), key=os.path.getmtime)
        weights.append(load_file(run / "best/weights.safetensors"))
    assert "from the cache, 32 images of train" in result.stderr
    changed = {key for key, tensor in weights[0].items() if not tensor.equal(weights[1][key])}
    assert {"classifier.weight", "words.weight"} <= changed
    assert any("backbone.model.layer4" in key for key in changed)
    assert not any("layer1" in key or "running" in key for key in changed)
    # Validation in training is from cached maps, evaluation from pixels.
    (loss,) = (row["val/loss"] for row in read_metrics(run) if "val/loss" in row)
    assert radrep("eval", run, "--split", "val").exit_code == 0
    scores = json.loads((run / "scores-val.json").read_text())
    assert scores["loss"] == pytest.approx(loss, abs=1e-5)
    # A report model learns on from the whole backbone, at its own small rate.
    source = {"weights": str(run), "frozen_stages": 0}
    recipe = TINY | {"model": TINY["model"] | {"backbone": backbone | source}}
    recipe |= {"data": TINY["data"] | {"prepared": str(phantoms)}, "out": str(tmp_path / "csr")}
    recipe |= {
        "train": TINY["train"] | {"epochs": 1},
        "optim": TINY["optim"] | {"encoder_lr": 1e-6},
    }
    file.write_text(yaml.safe_dump(recipe))
    assert radrep("train", file).exit_code == 0
    after = load_file(tmp_path / "csr/best/weights.safetensors")
    moved = {
        key: float((after[key] - tensor).abs().max())
        for key, tensor in weights[1].items()
        if key.startswith("backbone.") and key.endswith(".weight")
    }
    # Adam moves a weight by about its rate a step, of which there are four.
    assert all(0 < each < 1e-5 for each in moved.values()), moved


def features_of(
    phantoms: Path, *splits: str, reporter: Reporter | None = None, **changes: Any
) -> FeatureStore:
    torch.manual_seed(0)
    backbone = Backbone(name="test_resnet.r160_in1k", weights="none", image_size=64, frozen=True)
    if changes.pop("other_weights", False):
        with torch.no_grad():
            next(backbone.parameters()).add_(0.1)
    selection = ImageSelection("views", max_views=2)
    images = [SelectedImages.find(ModelStudies(phantoms, split), selection) for split in splits]
    return cached_features(
        {backbone: images},
        replace(Preprocess(64, backbone.mean, backbone.std), **changes),
        device=torch.device("cpu"),
        reporter=reporter or Reporter(),
    )[backbone]


def test_the_cache_key_holds_weights_preprocessing_and_split(
    tmp_path: Path, phantoms: Path
) -> None:
    def count(*splits: str, **changes: Any) -> int:
        features_of(phantoms, *splits, **changes)
        return len(list((tmp_path / "cache/features").iterdir()))

    assert count("val") == 1
    assert count("val") == 1
    assert count("test") == 2
    assert count("test", "val") == 2, "known splits are computed in no combination again"
    assert count("val", random_flip=True) == 3
    assert count("val", other_weights=True) == 4


def test_one_pass_of_the_backbone_makes_the_entries_that_are_missing(
    tmp_path: Path, phantoms: Path
) -> None:
    torch.manual_seed(0)
    backbone = Backbone(name="test_resnet.r160_in1k", weights="none", image_size=64, frozen=True)
    passed: list[int] = []

    def note(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
        passed.append(len(given[0]))

    backbone.model.conv1.register_forward_pre_hook(note)
    preprocess = Preprocess(64, backbone.mean, backbone.std)
    summaries, film = StageSummaries(backbone), FilmStatistics((backbone.mean, backbone.std))
    studies = ModelStudies(phantoms, "val")
    images = [SelectedImages.find(studies, ImageSelection("views", max_views=2))]

    def make(*encoders: nn.Module) -> tuple[list[Tensor], int]:
        passed.clear()
        stores = cached_features(
            dict.fromkeys(encoders, images),
            preprocess,
            device=torch.device("cpu"),
            reporter=Reporter(),
        )
        found = [stores[each](studies[0].images[0], View(0)) for each in encoders]
        return found, sum(passed)

    together, num_passed = make(backbone, summaries, film)
    assert num_passed == 8 + 1
    entries = {path.name for path in (tmp_path / "cache/features").iterdir()}
    assert len(entries) == 3
    assert make(film, backbone)[1] == 0, "each is of use without the others"
    with torch.no_grad():
        pixels = preprocess.evaluate(studies.read_view(0, View(0)))[None]
        alone = [each.eval()(pixels)[0] for each in (backbone, summaries, film)]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    shutil.rmtree(next((tmp_path / "cache/features").iterdir()))
    again, num_passed = make(backbone, summaries, film)
    assert num_passed <= 8 + 1
    assert all(map(torch.equal, again, together))
    assert {path.name for path in (tmp_path / "cache/features").iterdir()} == entries


def test_reading_many_blocks_keeps_few_files_open(
    phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry_module, "BLOCK", 2)
    monkeypatch.setattr(entry_module, "_MAPPED", 3)
    store, studies = features_of(phantoms, "train"), ModelStudies(phantoms, "train")
    images = [studies[i].images[0] for i in range(32)]
    before, num_open = [store(image, View(0)) for image in images[:8]], count_open_files()
    for image in images:
        store(image, View(0))
    assert count_open_files() <= num_open
    again = [store(image, View(0)) for image in images[:8]]
    assert all(map(torch.equal, before, again))


def count_open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_features_are_those_of_the_encoder(phantoms: Path) -> None:
    store = features_of(phantoms, "val", "test")
    torch.manual_seed(0)
    backbone = Backbone(name="test_resnet.r160_in1k", weights="none", image_size=64, frozen=True)
    preprocess = Preprocess(64, backbone.mean, backbone.std)
    for split in ("val", "test"):
        studies = ModelStudies(phantoms, split)
        pixels = preprocess.evaluate(studies.read_view(1, View(0)))
        with torch.no_grad():
            expected = backbone.eval()(pixels[None])[0]
        found = store(studies[1].images[0], View(0))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


class Heard(Reporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.facts: list[str] = []
        self.warnings: list[str] = []

    def info(self, label: str, text: str) -> None:
        self.facts.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    @contextmanager
    def progress(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        def advance(n: int = 1, note: str = "") -> None:
            pass

        yield advance


def test_copies_of_data_share_an_entry_also_of_a_cache_that_cannot_be_written(
    tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features_of(phantoms, "val")
    (entry,) = (tmp_path / "cache/features").iterdir()
    before, heard = read_contents(entry), Heard()
    shutil.copytree(phantoms, tmp_path / "copy")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(entry_module, "locked", refuse)
    monkeypatch.setattr(entry_module, "atomic_write_text", refuse)
    features_of(tmp_path / "copy", "val", reporter=heard)
    assert not heard.warnings
    assert len(heard.facts) == 1
    assert read_contents(entry) == before


def test_a_cache_that_is_cleared_under_a_run_is_named(tmp_path: Path, phantoms: Path) -> None:
    store, image = features_of(phantoms, "val"), ModelStudies(phantoms, "val")[0].images[0]
    shutil.rmtree(tmp_path / "cache/features")
    with pytest.raises(DataError, match=r"000000\.npy was there .* Was the cache cleared"):
        store(image, View(0))


def test_who_needs_a_block_that_another_process_makes_waits_for_it_alone(
    tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry_module, "BLOCK", 3)
    features_of(phantoms, "val")  # to learn the name of the entry
    (entry,) = (tmp_path / "cache/features").iterdir()
    before = {file.name: file.read_bytes() for file in entry.iterdir()}
    shutil.rmtree(entry)
    entry.mkdir()
    (entry / ".000002.npy.1.partial").write_bytes(b"what a kill left")
    passes, on_cpu = [], image_pass._on_cpu

    def note(*given: Any) -> object:
        passes.append(given)
        return on_cpu(*given)

    monkeypatch.setattr(image_pass, "_on_cpu", note)
    theirs, heard = [entry / "000000.npy", entry / "000001.npy"], Heard()
    locks = [FileLock(f"{file}.lock") for file in theirs]
    with ThreadPoolExecutor(1) as pool, ExitStack() as held:
        for lock in locks:
            held.enter_context(lock)
        waiting = pool.submit(features_of, phantoms, "val", reporter=heard)
        deadline = time.monotonic() + 120
        while not any("another process" in text for text in heard.facts):
            assert not waiting.done()
            assert time.monotonic() < deadline, "who waits gives notice first"
            time.sleep(0.02)
        made = {file.stem for file in entry.glob("*.npy")}
        assert made == {"000002"}, "all others are made without a wait"
        while len(passes) < 2:
            assert not waiting.done()
            time.sleep(0.02)
        for file in theirs:
            for name in (file.name, f"{file.name}.sha256"):
                (entry / name).write_bytes(before[name])
        stamps = [file.stat().st_mtime_ns for file in theirs]
        held.close()
        waiting.result(timeout=60)
    for lock in locks:
        Path(lock.lock_file).unlink(missing_ok=True)
    assert len(passes) == 2, "no pass for a block that is there when its turn comes"
    assert [file.stat().st_mtime_ns for file in theirs] == stamps, "the other one's stay"
    assert {file.name: file.read_bytes() for file in entry.iterdir()} == before


def test_what_cannot_be_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill() -> None:
        for name in ("features/a", "features/b", "language_models/c", "locks"):
            folder = tmp_path / "cache" / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "x.npy").write_bytes(b"0" * 1_000_000)

    fill()
    unlink = os.unlink

    def refuse(path: str, *rest: object, **more: Any) -> None:
        if "features" in str(path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        unlink(path, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        result = radrep("cache", "clear")
    assert result.exit_code == 2
    assert result.stdout == "2 MB freed.\n"
    assert "Read-only file system" in result.stderr
    assert str(tmp_path / "cache/features/a/x.npy") in result.stderr
    done = radrep("cache", "clear")
    assert (done.exit_code, done.stdout) == (0, "2 MB freed.\n")
    fill()
    (tmp_path / "cache/features/a/index.json").write_text("{ cut")
    assert "cannot be read" in radrep("cache").stdout
    assert radrep("cache", "clear").exit_code == 0
    assert radrep("cache").stdout.endswith(" is empty.\n")


@pytest.mark.parametrize("value", ["file", "/proc/x", "file/below"])
def test_a_cache_that_cannot_be_made_names_its_variable(
    value: str, tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RADREP_CACHE", str(tmp_path / value))
    with pytest.raises(RadrepError, match="name another folder for caches with RADREP_CACHE"):
        features_of(phantoms, "val")


def test_a_disk_without_locks_computes_without_them(
    phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert features_of(phantoms, "val") is not None


def test_what_a_kill_left_is_shown_and_cleared(tmp_path: Path) -> None:
    left = tmp_path / "cache/features/abc"
    left.mkdir(parents=True)
    (left / ".000000.npy.1.partial").write_bytes(bytes(3_000_000))
    shown = radrep("cache").stdout
    assert "unfinished" in shown
    assert " 3 " in shown
    assert radrep("cache", "clear").stdout == "3 MB freed.\n"
    assert not left.exists()
