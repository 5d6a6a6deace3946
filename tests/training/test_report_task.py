"""Training through the command: resuming, not overwriting, processes, groups of parameters."""

import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from radrep.build import build_codec, build_model
from radrep.data.batch import Batch
from radrep.data.manifest import PREPARED
from radrep.data.tokenizer import Tokenizer
from radrep.models.base import ReportModel
from radrep.progress import Reporter
from radrep.recipe.load import load_recipe
from radrep.training.accelerator import build_accelerator
from radrep.training.parallel.launch import REQUEUE
from radrep.training.report_task import ReportTask
from radrep.training.validation import Validation, mean_loss
from tests.whole_way import radrep, read_metrics, stop_midway, write_recipe


def test_a_run_folder_is_complete(trained_run: Path) -> None:
    names = {path.name for path in trained_run.iterdir()}
    assert {"recipe.yaml", "environment.json", "metrics.jsonl", "checkpoints", "best"} <= names
    files = {path.name for path in (trained_run / "best").iterdir()}
    assert files == {
        "weights.safetensors", "recipe.yaml", "vocabulary.json", "training.pt",
        "selection.safetensors", "editing.safetensors", "consensus.safetensors", "checksums.json",
    }  # fmt: skip
    environment = json.loads((trained_run / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__.split("+")[0]


def test_training_lowers_the_loss(trained_run: Path) -> None:
    losses = [row["loss"] for row in read_metrics(trained_run) if "loss" in row]
    assert len(losses) == 8  # two epochs of 32 studies in batches of 8
    assert sum(losses[-3:]) < sum(losses[:3])


def test_a_second_run_takes_another_folder(tmp_path: Path, phantoms: Path) -> None:
    recipe = write_recipe(tmp_path, phantoms, train={"epochs": 1})
    assert radrep("train", recipe).exit_code == 0
    first = (tmp_path / "run/metrics.jsonl").read_bytes()
    assert radrep("train", recipe).exit_code == 0
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == first
    assert (tmp_path / "run-2/best/weights.safetensors").is_file()
    refused = radrep("train", recipe, "--out", tmp_path / "run")
    assert refused.exit_code == 2
    assert "exists already and is not overwritten" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_resumes_to_the_same_curve(
    tmp_path: Path, phantoms: Path, number: signal.Signals
) -> None:
    changes = {"train": {"epochs": 3, "save_every_steps": 3, "grad_accum_steps": 2,
                         "batch_size": 4, "log_every": 1}}  # fmt: skip
    (tmp_path / "whole").mkdir()
    assert radrep("train", write_recipe(tmp_path / "whole", phantoms, **changes)).exit_code == 0
    recipe = write_recipe(tmp_path, phantoms, **changes)
    code, told = stop_midway("train", recipe, lines=7, number=number)
    if number != signal.SIGKILL:
        assert code == (130 if number == signal.SIGINT else REQUEUE)
        assert "resource_tracker" not in told
        assert f"radrep train {tmp_path / 'run'} --resume" in " ".join(told.split())
        assert "Traceback" not in told
    assert not list((tmp_path / "run").glob("**/weights.safetensors.*"))
    resumed = radrep("train", recipe, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert read_metrics(tmp_path / "run") == read_metrics(tmp_path / "whole/run")


def test_accumulated_batches_equal_one_large_batch(tmp_path: Path, phantoms: Path) -> None:
    curves = []
    for name, sizes in (
        ("whole", {"batch_size": 8}),
        ("parts", {"batch_size": 2, "grad_accum_steps": 4}),
    ):
        (tmp_path / name).mkdir()
        recipe = write_recipe(
            tmp_path / name,
            phantoms,
            train=sizes | {"epochs": 1},
            data={"random_crop": False},
            model=_without_randomness(),
        )
        assert radrep("train", recipe).exit_code == 0
        rows = read_metrics(tmp_path / name / "run")
        curves.append([row["loss"] for row in rows if "loss" in row])
    assert curves[0] == pytest.approx(curves[1], rel=2e-3)


def _without_randomness() -> dict[str, object]:
    """No dropout, and a frozen backbone: batch statistics would depend on the batch."""
    return {
        "backbone": {"name": "test_resnet.r160_in1k", "weights": "none", "frozen": True},
        "projection_dropout": 0.0,
        "enhancer": {"mode": "none"},
        "transformer": {
            "dim": 16, "num_layers": 1, "num_heads": 2, "ff_dim": 16, "dropout": 0.0
        },
    }  # fmt: skip


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(tmp_path: Path, phantoms: Path) -> None:
    import subprocess
    import sys

    curves = []
    for name, size in (("one", 8), ("two", 4)):
        (tmp_path / name).mkdir()
        recipe = write_recipe(
            tmp_path / name,
            phantoms,
            train={"batch_size": size, "epochs": 1},
            data={"random_crop": False},
            model=_without_randomness(),
        )
        command = [sys.executable, "-m", "radrep", "train", str(recipe)]
        if name == "two":
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
            command[1:3] = [*launcher, "-m", "radrep"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Best checkpoint") == 1, "the main process alone speaks"
        rows = read_metrics(tmp_path / name / "run")
        curves.append([row["loss"] for row in rows if "loss" in row])
        assert len(list((tmp_path / name).glob("run*"))) == 1
        environment_file = json.loads((tmp_path / name / "run/environment.json").read_text())
        assert environment_file["num_processes"] == (2 if name == "two" else 1)
    assert curves[0] == pytest.approx(curves[1], rel=2e-3)


def test_bf16_trains_on_a_cpu(tmp_path: Path, phantoms: Path) -> None:
    recipe = write_recipe(tmp_path, phantoms, train={"epochs": 1, "precision": "bf16"})
    assert radrep("train", recipe).exit_code == 0
    losses = [row["loss"] for row in read_metrics(tmp_path / "run") if "loss" in row]
    assert all(0 < loss < 10 for loss in losses)


def test_training_never_opens_the_test_split(tmp_path: Path, phantoms: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(phantoms, copy)
    for shard in copy.glob("test-*.arrow"):
        shard.unlink()
    assert radrep("train", write_recipe(tmp_path, copy, train={"epochs": 1})).exit_code == 0


def test_meteor_is_refused_as_the_monitor_where_java_is_missing(
    tmp_path: Path, phantoms: Path, without_java: None
) -> None:
    recipe = write_recipe(tmp_path, phantoms, train={"monitor": "val/meteor"})
    refused = radrep("train", recipe)
    assert refused.exit_code == 2
    assert "train.monitor" in refused.stderr
    assert "java" in refused.stderr
    assert not (tmp_path / "run").exists(), "refused before anything is made"


def test_changed_data_are_refused_before_features_are_computed(
    tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "data"
    shutil.copytree(phantoms, copy)
    recipe = write_recipe(tmp_path, copy, train={"epochs": 1}, model=_without_randomness())
    assert radrep("train", recipe).exit_code == 0
    record = json.loads((copy / PREPARED).read_text())
    next(s for s in record["shards"] if s["split"] == "train")["sha256"] = "0" * 64
    (copy / PREPARED).write_text(json.dumps(record))
    monkeypatch.setattr("radrep.training.run.cached_features", None)
    monkeypatch.setenv("RADREP_VERIFY", "0")  # as if the shard were other than before, too
    resumed = radrep("train", recipe, "--resume")
    assert resumed.exit_code == 2, resumed.output
    assert "other data" in resumed.stderr


class _TwoStudies(list[Any]):
    def __init__(self) -> None:
        super().__init__([SimpleNamespace(id="a"), SimpleNamespace(id="b")])
        self.studies = self

    def texts(self, _target: str) -> list[str]:
        return ["lungs are quite clear", "clear lungs"]


class _OnceRead:
    """A validation of two studies without images, read by batches that are counted."""

    def __init__(self, folder: Path, language_model: str) -> None:
        self.recipe = load_recipe(str(write_recipe(folder, folder)), ["data.max_tokens=4"])
        self.accelerator = build_accelerator()
        self.tokenizer = Tokenizer(("<unk>", "clear", "lungs"), "plain", 1)
        self.reporter, self.part, self.reads = Reporter(), slice(None), 0
        self.codec = SimpleNamespace(
            language_model=language_model,
            shorten=lambda text, max_tokens: " ".join(text.split()[:2]),
            decode=self.tokenizer.decode,
        )
        self.dataset = _TwoStudies()

    def batches(self, _size: int) -> list[Batch]:
        self.reads += 1
        return [Batch((id_,), torch.ones(1), images=torch.zeros(1, 3, 2, 2)) for id_ in "ab"]

    def loss(self, batch: Batch) -> tuple[float, int]:
        return 2.0, 1


class _Writes(torch.nn.Linear):
    def encode_images(self, batch: Batch, *_: Any) -> Batch:
        return batch

    def write(self, batch: Batch, *_: Any) -> list[list[int]]:
        return [[2, 3] for _ in batch.ids]


@pytest.mark.parametrize(
    ("language_model", "protocol", "first"),
    [("", "published", "lungs <unk> <unk>"), ("llama", "published_llm", "lungs are")],
)
def test_a_method_is_validated_by_its_own_protocol_and_reads_studies_once(
    tmp_path: Path, language_model: str, protocol: str, first: str
) -> None:
    on = _OnceRead(tmp_path, language_model)
    task = ReportTask(on, _Writes(1, 1))  # type: ignore[arg-type]
    assert task.references.protocol == protocol
    assert task.references.texts[0] == first
    scores = task.validate()
    assert scores["val/loss"] == 2.0
    assert scores["val/bleu1"] > 0
    assert "val/image_gain" not in scores, "one study has no other one's images"
    assert on.reads == 1


class _Paired(_OnceRead):
    """Two studies in a batch, whose loss counts the images that are not their own."""

    def batches(self, _size: int) -> list[Batch]:
        numbers = torch.tensor([5.0, 6.0])
        return [Batch(("a", "b"), torch.tensor([1, 1]), features=numbers, tokens=numbers)]

    def loss(self, batch: Batch) -> tuple[float, int]:
        assert batch.features is not None
        assert batch.tokens is not None
        return 1.0 + float((batch.features != batch.tokens).sum()), 2


def test_validation_measures_what_the_images_take_off_the_loss(tmp_path: Path) -> None:
    scores = ReportTask(_Paired(tmp_path, ""), _Writes(1, 1)).validate()  # type: ignore[arg-type]
    assert (scores["val/loss"], scores["val/image_gain"]) == (0.5, 1.0)


_EMRRG = {
    "name": "emrrg",
    "encoder": {"size": "tiny"},
    "train_encoder": "trained",
    "language_model": {"name": "tiny:llama", "precision": "bf16"},
}


@pytest.mark.parametrize("method", ["csr_lmca", "emrrg"])
def test_validation_encodes_every_image_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    file = write_recipe(tmp_path, tmp_path, train={"precision": "bf16"})
    if method == "emrrg":
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"model": _EMRRG}))
    recipe = load_recipe(str(file))
    torch.manual_seed(0)
    tokenizer = Tokenizer(("<unk>", "clear", "lungs"), "plain", 1)
    model = build_model(recipe, tokenizer.vocabulary)
    assert isinstance(model, ReportModel)
    learned = {"tokens": torch.tensor([[0, 2, 3, 0]]), "lengths": torch.tensor([4])}
    batches = [
        Batch((id_,), torch.ones(1, dtype=int), images=torch.randn(1, 3, 64, 64), **learned)
        for id_ in "ab"
    ]
    monkeypatch.setattr(Validation, "batches", lambda *_: batches)
    on = Validation(
        recipe=recipe,
        accelerator=build_accelerator(),
        model=model,
        dataset=_TwoStudies(),  # type: ignore[arg-type]
        tokenizer=tokenizer,
        codec=build_codec(recipe, tokenizer, model),
        num_workers=0,
        reporter=Reporter(),
    )
    encoded: list[int] = []
    encoder: Any = model.backbone if method == "csr_lmca" else model.encoder  # type: ignore
    name = "stage_maps" if method == "csr_lmca" else "forward"
    encode = getattr(encoder, name)
    monkeypatch.setattr(encoder, name, lambda images: encoded.append(len(images)) or encode(images))
    loss = ReportTask(on, model).validate()["val/loss"]
    assert encoded == [1, 1]
    model.eval()
    assert loss == pytest.approx(mean_loss(map(on.loss, batches)), rel=1e-2), "bf16 all the way"
