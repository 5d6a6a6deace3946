"""Evaluation of the tiny run, through the command."""

import json
import shutil
from pathlib import Path

import pytest

from radrep.data.store import PreparedStudies
from tests.whole_way import TINY, radrep, read_metrics, without_split, write_recipe


@pytest.fixture(scope="module")
def evaluated(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The tiny run with its test split scored, and what the command printed."""
    run = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(trained_run, run, symlinks=True)
    result = radrep("eval", run, "--split", "test")
    assert result.exit_code == 0, result.output
    return run, result.stdout


def test_scores_and_predictions_are_written(evaluated: tuple[Path, str]) -> None:
    run, _ = evaluated
    scores = json.loads((run / "scores-test.json").read_text())
    assert scores["num_studies"] == 8
    assert set(scores["protocols"]) == {"published", "full"}
    names = [s["name"] for s in scores["protocols"]["published"]["systems"]]
    assert names[:2] == ["model", "images shuffled"]
    assert "constant, best cider" in names
    for system in scores["protocols"]["full"]["systems"]:
        for metric, (low, high) in system["intervals"].items():
            assert low <= system["scores"][metric] + 1e-9
            assert high >= system["scores"][metric] - 1e-9
    rows = [json.loads(line) for line in (run / "predictions-test.jsonl").read_text().splitlines()]
    assert len({row["id"] for row in rows}) == 8
    assert all(row["reference"] for row in rows)
    assert scores["diversity"]["num_distinct"] == len({row["generated"] for row in rows})


def test_references_are_whole_whatever_the_model_was_taught(
    evaluated: tuple[Path, str], phantoms: Path
) -> None:
    run, _ = evaluated
    raw = {study.id: study.sections["findings"] for study in PreparedStudies(phantoms, "test")}
    rows = [json.loads(line) for line in (run / "predictions-test.jsonl").read_text().splitlines()]
    assert {row["id"]: row["reference"] for row in rows}.items() <= raw.items()


def test_the_table_names_protocol_split_and_baselines(evaluated: tuple[Path, str]) -> None:
    _, printed = evaluated
    for text in ("protocol published", "protocol full", "test, 8 studies", "95 % interval",
                 "images shuffled", "constant, best bleu4", "distinct reports"):  # fmt: skip
        assert text in printed


@pytest.mark.usefixtures("without_java")
def test_a_checkpoint_loads_on_its_own(trained_run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "moved"
    shutil.copytree((trained_run / "best").resolve(), alone)
    result = radrep("eval", alone, "--split", "val")
    assert result.exit_code == 0, result.output
    assert (alone / "scores-val.json").is_file()


@pytest.mark.usefixtures("without_java")
def test_the_newest_run_is_found_and_val_stands_in_for_a_missing_test(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs/mine"
    shutil.copytree(trained_run, run, symlinks=True)
    prepared = tmp_path / "data"
    recipe = run / "best/recipe.yaml"
    text = recipe.read_text()
    old = next(line for line in text.splitlines() if line.strip().startswith("prepared:"))
    without_split(Path(old.split(": ", 1)[1]), prepared, "test")
    recipe.write_text(text.replace(old, f"  prepared: {prepared}"))
    result = radrep("eval")
    assert result.exit_code == 0, result.output
    assert "has no test study" in result.stderr
    assert (run / "scores-val.json").is_file()
    empty = radrep("eval", run, "--split", "test")
    assert empty.exit_code == 2
    assert "the split 'test' has no study" in empty.stderr


def test_without_java_meteor_is_skipped_in_one_line(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = radrep("eval", trained_run, "--split", "val", "--out", tmp_path / "scores")
    assert result.exit_code == 0, result.output
    told = [line for line in result.stdout.splitlines() if "METEOR" in line]
    assert len(told) == 1
    scores = json.loads((tmp_path / "scores/scores-val.json").read_text())
    model = scores["protocols"]["full"]["systems"][0]["scores"]
    assert model["meteor"] is None
    assert model["cider"] is not None


def test_batches_do_not_change_reports(trained_run: Path) -> None:
    from radrep.data.dataset import in_order
    from radrep.engine.build import build_dataset, build_preprocess, read_split
    from radrep.engine.checkpoint import find_checkpoint, load_checkpoint
    from radrep.engine.generate import write_reports

    loaded = load_checkpoint(find_checkpoint(trained_run))
    split = read_split(loaded.recipe.data, "val")
    dataset = build_dataset(
        loaded.recipe,
        split,
        preprocess=build_preprocess(loaded.recipe.data, loaded.model),
        codec=loaded.codec,
    )
    decode = loaded.recipe.decode.model_copy(update={"method": "beam", "beam_size": 3})
    written = [
        write_reports(
            loaded.model,
            in_order(dataset, size, num_workers=0),
            loaded.codec,
            decode,
            precision="fp32",
        )
        for size in (1, 3, 8)
    ]
    assert written[0] == written[1] == written[2]
    assert len(written[0]) == 8


@pytest.mark.usefixtures("without_java")
def test_eval_finds_the_scores_of_validation_again(tmp_path: Path, phantoms: Path) -> None:
    """Though training read cached features and eval computes them from pixels."""
    backbone = TINY["model"]["backbone"] | {"frozen": True}
    recipe = write_recipe(
        tmp_path,
        phantoms,
        model=TINY["model"] | {"backbone": backbone, "feature_norm": True},
        train=TINY["train"] | {"precision": "bf16", "keep_best": "val/rouge_l"},
    )
    assert radrep("train", recipe).exit_code == 0
    run = tmp_path / "run"
    assert radrep("eval", run, "--split", "val").exit_code == 0
    scores = json.loads((run / "scores-val.json").read_text())
    published = scores["protocols"]["published"]["systems"][0]["scores"]
    rows = [row for row in read_metrics(run) if "val/rouge_l" in row]
    best = max(rows, key=lambda row: row["val/rouge_l"])
    for metric in ("bleu1", "rouge_l", "cider"):
        assert published[metric] == best[f"val/{metric}"]
