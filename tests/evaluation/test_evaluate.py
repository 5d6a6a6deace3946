"""Evaluation of the tiny run, through the command."""

import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from radrep.atomic import locked
from radrep.data.store import PreparedStudies
from radrep.evaluation import artifacts
from radrep.weights.checkpoint import load_checkpoint
from radrep.weights.files import write_checksums
from tests.whole_way import TINY, radrep, read_metrics, without_split, write_recipe

pytestmark = pytest.mark.usefixtures("shared_cache")


@pytest.fixture(scope="module")
def evaluated(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The tiny run with its test split scored, and what the command printed."""
    run = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(trained_run, run, symlinks=True)
    result = radrep("eval", run, "--split", "test", "--no-meteor")  # Java would take ten seconds
    assert result.exit_code == 0, result.output
    return run, result.stdout


def read_predictions(run: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (run / "predictions-test.jsonl").read_text().splitlines()]


def test_scores_and_predictions_are_written(evaluated: tuple[Path, str]) -> None:
    run, _ = evaluated
    scores = json.loads((run / "scores-test.json").read_text())
    assert scores["num_studies"] == 8
    assert set(scores["protocols"]) == {"published", "full"}
    names = [s["name"] for s in scores["protocols"]["published"]["systems"]]
    assert names[:5] == [
        "model", "shuffled control", "blank-image control", "nearest neighbour", "selection"
    ]  # fmt: skip
    assert "constant, best cider" in names
    assert [s["name"] for s in scores["findings"]["systems"]] == names
    pairs = [(p["first"], p["second"]) for p in scores["protocols"]["full"]["comparisons"]]
    assert pairs == [("model", name) for name in names[1:]]
    for system in scores["protocols"]["full"]["systems"]:
        for metric, (low, high) in system["intervals"].items():
            assert low <= system["scores"][metric] + 1e-9
            assert high >= system["scores"][metric] - 1e-9
    rows = read_predictions(run)
    assert len({row["id"] for row in rows}) == 8
    assert all(row["reference"] for row in rows)
    seen = scores["diversity"]["model"]
    assert seen["num_distinct"] == len({row["generated"] for row in rows})


def test_blank_images_give_one_report_whatever_the_study(evaluated: tuple[Path, str]) -> None:
    run, _ = evaluated
    scores = json.loads((run / "scores-test.json").read_text())
    assert scores["diversity"]["blank-image control"]["num_distinct"] == 1


def test_every_run_has_a_model_card(trained_run: Path, evaluated: tuple[Path, str]) -> None:
    before = (trained_run / "MODEL_CARD.md").read_text()
    assert "Not for clinical use" in before
    assert "Not evaluated yet" in before
    run, _ = evaluated
    card = (run / "MODEL_CARD.md").read_text()
    scores = json.loads((run / "scores-test.json").read_text())
    assert scores["ids_sha256"] in card
    assert "Not for clinical use" in card
    assert "Not evaluated yet" not in card
    for system in scores["protocols"]["published"]["systems"]:
        assert f"| {system['name']} |" in card


def test_the_page_shows_studies_with_their_films(evaluated: tuple[Path, str]) -> None:
    run, printed = evaluated
    page = (run / "report.html").read_text()
    assert str(run / "report.html") in printed
    assert "data:image/" in page
    ids = [row["id"] for row in read_predictions(run)]
    assert sum(id_ in page for id_ in ids) == 8  # all eight: three best, three worst, the others


def test_references_are_whole_whatever_the_model_was_taught(
    evaluated: tuple[Path, str], phantoms: Path
) -> None:
    run, _ = evaluated
    raw = {study.id: study.sections["findings"] for study in PreparedStudies(phantoms, "test")}
    rows = read_predictions(run)
    assert {row["id"]: row["reference"] for row in rows}.items() <= raw.items()


def test_the_table_names_protocol_split_and_baselines(evaluated: tuple[Path, str]) -> None:
    _, printed = evaluated
    for text in ("protocol published", "protocol full", "test, 8 studies", "95 % interval",
                 "shuffled control", "blank-image control", "nearest neighbour", "selection",
                 "constant, best bleu4", "findings F1 (rules)", "with side",
                 "distinct reports"):  # fmt: skip
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
    write_checksums(recipe.parent)
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
    told = [line for line in result.stdout.splitlines() if "METEOR skipped" in line]
    assert len(told) == 1
    scores = json.loads((tmp_path / "scores/scores-val.json").read_text())
    model = scores["protocols"]["full"]["systems"][0]["scores"]
    assert model["meteor"] is None
    assert model["cider"] is not None


def test_the_decoding_can_be_changed_and_is_named_everywhere(
    trained_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run, symlinks=True)
    result = radrep(
        "eval", run, "--split", "test", "--set", "decode.max_new_tokens=2", "--no-meteor"
    )
    assert result.exit_code == 0, result.output
    assert max(len(row["generated"].split()) for row in read_predictions(run)) <= 2
    scores = json.loads((run / "scores-test.json").read_text())
    assert (scores["decode"]["method"], scores["decode"]["max_new_tokens"]) == ("greedy", 2)
    changed = "decoding changed by --set: max_new_tokens 2 instead of 12"
    assert changed in scores["notes"]
    assert changed in result.stdout
    page = (run / "report.html").read_text()
    assert "<dt>decode.max_new_tokens</dt><dd>2</dd>" in page
    assert changed in page
    assert "max_new_tokens 2," in (run / "MODEL_CARD.md").read_text()
    # METEOR is left out on request, also where there is Java.
    assert scores["protocols"]["full"]["systems"][0]["scores"]["meteor"] is None
    told = [note for note in scores["notes"] if "METEOR" in note]
    assert told == ["METEOR was left out on request (--no-meteor)"]


def test_only_the_decoding_can_be_changed(trained_run: Path) -> None:
    other = radrep("eval", trained_run, "--set", "data.max_views=2")
    assert other.exit_code == 2
    assert "keys of decode alone, such as decode.beam_size=1, got 'data.max_views=2'" in (
        other.stderr
    )
    wrong = radrep("eval", trained_run, "--set", "decode.beam_size=0")
    assert wrong.exit_code == 2
    assert "decode.beam_size" in wrong.stderr
    assert "must be greater than 0, got 0" in wrong.stderr


@pytest.mark.usefixtures("without_java")
def test_scores_never_stand_beside_other_reports_than_theirs(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever stops between the two files leaves no scores, not those of before."""
    from radrep.evaluation.result import EvalResult

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    words = ("eval", trained_run, "--split", "test", "--out", out)
    assert radrep(*words).exit_code == 0
    assert (out / "scores-test.json").is_file()
    monkeypatch.setattr(EvalResult, "to_json", stop)
    stopped = radrep(*words, "--set", "decode.max_new_tokens=2")
    assert (stopped.exit_code, stopped.stderr.splitlines()[-1]) == (130, "stopped")
    assert not (out / "scores-test.json").exists()


def test_an_out_that_cannot_be_a_folder_is_refused_at_once(
    trained_run: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "below"):
        result = radrep("eval", trained_run, "--out", out)
        assert result.exit_code == 2
        assert f"{file} is a file and no folder; name another --out" in result.stderr
        assert "reports for" not in result.stderr, "nothing was decoded in vain"
    assert file.read_text() == "mine"


def test_batches_do_not_change_reports(trained_run: Path) -> None:
    from radrep.build import build_dataset, build_preprocess
    from radrep.data.dataset import in_order
    from radrep.inference.decode import write_reports
    from radrep.saliency.masked_split import read_split
    from radrep.weights.checkpoint import find_checkpoint, load_checkpoint

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
            precision="bf16",  # of training: reports are written in float32
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
        train=TINY["train"] | {"precision": "bf16", "monitor": "val/rouge_l"},
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


@pytest.mark.parametrize("text", ["", "[]", "{", '{"checkpoint": 3}', "\x00", "[" * 10_000])
def test_files_of_an_earlier_evaluation_that_are_broken_are_written_again(
    trained_run: Path, tmp_path: Path, text: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("scores-test.json", "predictions-test.jsonl"):
        (out / name).write_text(text)
    checkpoint = trained_run / "best"
    decode = load_checkpoint(checkpoint).recipe.decode
    found = artifacts.read_reports(
        out, "test", checkpoint=checkpoint, weights=[checkpoint.resolve()], decode=decode
    )
    assert found == {}


def test_breaks_within_reports_of_an_earlier_evaluation_break_no_row(
    trained_run: Path, tmp_path: Path
) -> None:
    checkpoint = trained_run / "best"
    decode = load_checkpoint(checkpoint).recipe.decode
    reports = {"a": "One.\u2028Two.", "b": "One.\x85Two.\x1cThree."}
    rows = [json.dumps({"id": i, "generated": t}, ensure_ascii=False) for i, t in reports.items()]
    (tmp_path / "predictions-test.jsonl").write_text("".join(f"{row}\n" for row in rows))
    scores = {"checkpoint": str(checkpoint), "decode": decode.model_dump()}
    (tmp_path / "scores-test.json").write_text(json.dumps(scores))
    found = artifacts.read_reports(
        tmp_path, "test", checkpoint=checkpoint, weights=[checkpoint.resolve()], decode=decode
    )
    assert found == reports


def test_of_two_evaluations_of_a_folder_one_writes_behind_the_other(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, waits = tmp_path / "out", threading.Event()
    out.mkdir()

    def locked_and_noted(path: Path) -> AbstractContextManager[None]:
        waits.set()
        return locked(path)

    monkeypatch.setattr(artifacts, "locked", locked_and_noted)
    words = ("eval", trained_run, "--split", "test", "--no-meteor", "--out", out)
    with ThreadPoolExecutor(1) as pool:
        with locked(out / ".evaluation.lock"):
            evaluation = pool.submit(radrep, *words)
            assert waits.wait(60)
            time.sleep(0.1)
            assert [path.name for path in out.iterdir()] == [".evaluation.lock"]
        assert evaluation.result(60).exit_code == 0
    assert (out / "scores-test.json").is_file()
