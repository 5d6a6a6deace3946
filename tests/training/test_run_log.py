"""What a run writes about itself."""

import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from radrep.data.store import PreparedStudies
from radrep.errors import CheckpointError
from radrep.modules.mamba import MambaBranch
from radrep.recipe.load import load_recipe
from radrep.training import run_log as module
from radrep.training.accelerator import build_accelerator
from radrep.training.run_log import (
    Meter,
    MetricsLog,
    RunLog,
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
