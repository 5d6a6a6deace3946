"""What a run writes about itself."""

import io
import json
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from radrep.data.store import PreparedStudies
from radrep.errors import CheckpointError, RecipeError
from radrep.modules.mamba import MambaBranch
from radrep.recipe.load import load_recipe
from radrep.training import run_log as module
from radrep.training.accelerator import build_accelerator
from radrep.training.run_log import (
    Meter,
    MetricsLog,
    RunLog,
    check_tracker,
    describe_environment,
    scan_backend,
)
from radrep.weights.run_folder import read_seconds, write_environment
from tests.training.parallel.processes import run
from tests.whole_way import radrep, read_metrics, write_recipe


def test_a_cut_metrics_line_does_not_stop_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n{"step": 3, "lo')
    log = MetricsLog(path, upto_step=1)
    log.write(2, {"loss": 2.5})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.5}]


@pytest.mark.parametrize("line", ["[]", "7", '{"loss": 1.0}', '{"step": "x"}', '{"step": null}'])
def test_a_foreign_metrics_line_ends_the_log_as_a_cut_one_does(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1, "loss": 3.0}}\n{line}\n')
    MetricsLog(path, upto_step=9)
    assert path.read_text() == '{"step": 1, "loss": 3.0}\n'


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="it stands for a full disk")
def test_a_full_disk_under_the_log_advises_to_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.symlink_to("/dev/full")
    log = MetricsLog(tmp_path / "none", upto_step=0)
    log._path = path
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl could not be written.*--resume"):
        log.write(1, {"loss": 1.0})


def test_tensorboard_writes_into_the_runs_own_folder_with_the_recipe(
    tmp_path: Path, phantoms: Path
) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe = load_recipe(
        str(write_recipe(tmp_path, phantoms)), ["train.logger=tensorboard", "optim.lr=0.125"]
    )
    folder = tmp_path / "run-2"  # not recipe.out
    folder.mkdir()
    log = RunLog(folder, recipe, 0)
    log.write(3, {"loss": 2.0, "val/loss": 1.0})
    log.close()
    assert not recipe.out.exists()
    found = events.EventAccumulator(str(folder / "tensorboard")).Reload()
    assert {"train/loss", "val/loss"} <= set(found.Tags()["scalars"])
    (text,) = found.Tensors("recipe/text_summary")
    assert b"lr: 0.125" in text.tensor_proto.string_val[0]
    assert json.loads((folder / "metrics.jsonl").read_text())["loss"] == 2.0


def test_the_time_of_training_adds_up_over_starts(
    tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted at each checkpoint; what comes after the last one is trained again."""
    recipe = load_recipe(str(write_recipe(tmp_path, phantoms)))
    write_environment(tmp_path, {"device": "cpu"})
    assert read_seconds(tmp_path) is None
    clock = iter([10.0, 15.0, 22.5, 100.0, 101.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    for num_checkpoints in (2, 1):
        log = RunLog(tmp_path, recipe, 0)
        for _ in range(num_checkpoints):
            log.sync()
    assert json.loads((tmp_path / "environment.json").read_text()) == {
        "device": "cpu", "seconds": 13.5,
    }  # fmt: skip


def test_tensorboard_shows_reports_and_heatmaps_and_changes_no_number(
    tmp_path: Path, phantoms: Path, trained_run: Path
) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    result = radrep("train", write_recipe(tmp_path, phantoms), "--logger", "tensorboard")
    assert result.exit_code == 0, result.output
    plain, logged = read_metrics(trained_run), read_metrics(tmp_path / "run")
    assert logged == plain
    found = events.EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    ids = PreparedStudies(phantoms, "val").ids[:4]
    assert set(found.Tags()["images"]) == {f"validation/{id_}" for id_ in ids}
    images = found.Images(f"validation/{ids[0]}")
    assert [each.step for each in images] == [4, 8], "one after each epoch"
    (first, _) = (Image.open(io.BytesIO(each.encoded_image_string)) for each in images)
    assert np.ptp(np.asarray(first).astype(int), axis=-1).max() > 50, "heatmaps have colours"
    text = found.Tensors(f"validation/{ids[0]}/text_summary")[0].tensor_proto.string_val[0]
    reference = PreparedStudies(phantoms, "val")[0].sections["findings"]
    assert reference.encode() in text


class Wandb(ModuleType):
    """Stands for the package: the runs of its server by id, and a file in `dir` per start."""

    class Error(Exception):
        """The base class of wandb's errors."""

    class Settings:
        def __init__(self, *, console: str = "auto") -> None:
            self.console = console

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", None)
        self.runs: dict[str, list[dict[str, Any]]] = {}
        self.axes: dict[str, str | None] = {}
        self.starts: list[dict[str, Any]] = []
        self.refusal: str | None = None

    def init(
        self,
        *,
        project: str,
        name: str,
        id: str,
        resume: str,
        dir: Path,
        config: dict[str, Any],
        settings: "Wandb.Settings",
    ) -> "Wandb":
        if self.refusal is not None:
            raise self.Error(self.refusal)
        folder = Path(dir) / "wandb" / f"run-{len(self.starts)}-{id}"
        folder.mkdir(parents=True)
        (folder / f"run-{id}.wandb").touch()
        if resume != "allow" or id not in self.runs:
            self.runs[id] = []
        self.id = id
        facts = {"project": project, "name": name, "id": id, "config": config}
        self.starts.append(facts | {"console": settings.console})
        return self

    def define_metric(
        self, name: str, *, step_metric: str | None = None, step_sync: bool | None = None
    ) -> None:
        self.axes[name] = step_metric

    def log(self, data: dict[str, Any], step: int | None = None) -> None:
        rows = self.runs[self.id]
        now = len(rows) if step is None else step
        if now >= len(rows):  # the real one drops what is of an earlier step, with a warning
            rows.append(data)

    def finish(self) -> None:
        self.starts[-1]["finished"] = True


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Wandb:
    module = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_a_resumed_run_goes_on_under_its_id_at_wandb(
    tmp_path: Path, phantoms: Path, wandb: Wandb
) -> None:
    recipe, log = write_recipe(tmp_path, phantoms), ("--logger", "wandb")
    first = radrep("train", recipe, *log, "--set", "train.epochs=1", "--out", tmp_path / "a")
    assert first.exit_code == 0, first.output
    again = radrep("train", tmp_path / "a", "--resume", "--set", "train.epochs=2")
    assert again.exit_code == 0, again.output
    ((id_, rows),) = wandb.runs.items()
    assert [(s["id"], s["project"], s["name"]) for s in wandb.starts] == [(id_, "radrep", "a")] * 2
    assert all(start["finished"] and start["console"] == "off" for start in wandb.starts)
    sent = [start["config"] for start in wandb.starts]
    assert [config["train"]["epochs"] for config in sent] == [1, 2]
    assert sent[1] == load_recipe(str(tmp_path / "a/recipe.yaml")).model_dump(mode="json")
    assert wandb.axes["*"] == "train/global_step"
    expected = read_metrics(tmp_path / "a")
    assert [row["train/global_step"] for row in rows] == [row["step"] for row in expected]
    assert [row.get("train/loss") for row in rows] == [row.get("loss") for row in expected]
    assert [row.get("val/loss") for row in rows] == [row.get("val/loss") for row in expected]
    assert len([*(tmp_path / "a/wandb").glob(f"run-*-{id_}/run-{id_}.wandb")]) == 2
    assert not (tmp_path / "wandb").exists()
    other = radrep("train", recipe, *log, "--set", "train.epochs=1", "--out", tmp_path / "b")
    assert other.exit_code == 0, other.output
    assert len(wandb.runs) == 2


def test_steps_that_a_kill_has_trained_twice_reach_wandb(
    tmp_path: Path, phantoms: Path, wandb: Wandb
) -> None:
    recipe = load_recipe(str(write_recipe(tmp_path, phantoms)), ["train.logger=wandb"])
    for upto, steps in ((0, range(1, 6)), (3, range(4, 8))):
        log = RunLog(tmp_path, recipe, upto)
        for step in steps:
            log.write(step, {"loss": 1.0})
    ((_, rows),) = wandb.runs.items()
    assert [row["train/global_step"] for row in rows] == [1, 2, 3, 4, 5, 4, 5, 6, 7]


def test_wandb_that_refuses_ends_in_one_block(tmp_path: Path, phantoms: Path, wandb: Wandb) -> None:
    wandb.refusal = "api_key not configured (no-tty)"
    recipe = write_recipe(tmp_path, phantoms)
    result = radrep("train", recipe, "--logger", "wandb", "--out", tmp_path / "a")
    assert result.exit_code == 2
    told = " ".join(result.stderr.split())
    assert "train.logger wandb could not start (api_key not configured (no-tty)): log in" in told
    wandb.refusal = None
    assert radrep("train", recipe, "--logger", "wandb", "--out", tmp_path / "a").exit_code == 0


def test_a_tracker_that_is_not_installed_is_named(
    tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(RecipeError, match=r"wandb is not installed.*radrep\[loggers\]"):
        check_tracker("wandb")


def test_the_scan_backend_is_named_where_a_model_scans() -> None:
    cpu = torch.device("cpu")
    scans = MambaBranch(inner_dim=4, state_dim=2, conv_width=2, dt_rank=1)
    assert str(scan_backend(scans, cpu)).startswith("cpu: ")  # type: ignore[arg-type]
    assert scan_backend(torch.nn.Linear(1, 1), cpu) is None  # type: ignore[arg-type]


def test_the_environment_names_the_hub_commits_a_model_starts_from(
    tmp_path: Path, phantoms: Path
) -> None:
    recipe = load_recipe(str(write_recipe(tmp_path, phantoms)))
    model: torch.nn.Module = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ReLU())
    model[0].hub_source = "owner/model@c0ffee"  # type: ignore[index]
    found = describe_environment(build_accelerator(), recipe, model)  # type: ignore[arg-type]
    assert found["hub_sources"] == {"0": "owner/model@c0ffee"}
    assert found["scan_backend"] is None


def test_of_several_processes_the_slowest_is_logged(tmp_path: Path) -> None:
    """The second one waits for its data; the first one writes the line."""

    def work(rank: int) -> int:
        accelerator, meter = build_accelerator(), Meter(steps_left=6)
        for _ in range(3):
            with meter.waiting():
                time.sleep(0.3 * rank)
            meter.count(8)
        found = meter.fields(accelerator)
        if rank == 0:
            (tmp_path / "line.json").write_text(json.dumps(found))
        return 0

    run(tmp_path / "said", 2, work)
    line = json.loads((tmp_path / "line.json").read_text())
    assert int(line["data"].rstrip("%")) > 50
    assert int(line["img/s"]) <= 24 / 0.6
