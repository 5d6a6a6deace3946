"""A run's folder: order by step, the best one on any disk, checkpoints that are not whole."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from radrep.errors import CheckpointError
from radrep.weights.checkpoint import find_checkpoint, load_checkpoint
from radrep.weights.files import read_weights, write_checksums
from radrep.weights.run_folder import (
    best_checkpoint,
    drop_old_checkpoints,
    find_best,
    last_checkpoint,
    link_best,
    newest_whole,
    restore_best,
    run_dir,
    step_folder,
)
from tests.whole_way import radrep


def make_run(run: Path, *steps: int) -> Path:
    for step in steps:
        step_folder(run, step).mkdir(parents=True)
    return run


def test_checkpoints_are_ordered_by_step_beyond_seven_digits(tmp_path: Path) -> None:
    run = make_run(tmp_path, 9_999_999, 10_000_000)
    (tmp_path / "checkpoints/step-old").mkdir()
    assert last_checkpoint(run) == step_folder(run, 10_000_000)
    drop_old_checkpoints(run)
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"step-10000000", "step-old"}


def test_a_crash_before_the_link_to_the_best_is_repaired(tmp_path: Path) -> None:
    run = make_run(tmp_path, 10, 20)
    link_best(run, step_folder(run, 10))
    restore_best(run, 20)
    assert (run / "best").resolve() == step_folder(run, 20).resolve()
    restore_best(run, 30)  # of a checkpoint that is gone
    assert (run / "best").resolve() == step_folder(run, 20).resolve()


def unsupported(error: type[OSError] | type[Exception], number: int) -> Callable[..., None]:
    def refuse(*_: Any, **__: Any) -> None:
        raise error(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EPERM, errno.ENOSYS, errno.EINVAL])
def test_a_disk_without_links_keeps_the_best_in_a_text_file(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("symlink", "link", "chmod"):
        monkeypatch.setattr(os, name, unsupported(OSError, number))
    run = make_run(tmp_path / "run", 10, 20, 30)
    for step in (10, 20):  # the second is written over the first
        link_best(run, step_folder(run, step))
        assert (run / "best").read_text() == f"checkpoints/step-{step:07d}\n"
        assert best_checkpoint(run) == step_folder(run, step).resolve() == find_checkpoint(run)
    assert not list(run.glob(".*")), "nothing is left beside it"
    drop_old_checkpoints(run)
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"step-0000020", "step-0000030"}
    restore_best(run, 30)
    assert best_checkpoint(run) == step_folder(run, 30).resolve()


@pytest.mark.parametrize(
    "target",
    [
        "checkpoints/step-0000010",  # a link that a zip or a cloud made a text of
        "checkpoints/step-0000010\r\n",
        "checkpoints\\step-0000010",
        "/somewhere/else/run/checkpoints/step-0000010",
        "step-0000010/",
    ],
)
@pytest.mark.parametrize("link", [False, True])
def test_the_best_is_known_by_the_name_of_its_checkpoint(
    target: str, link: bool, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", 10, 20)
    if link:
        (run / "best").symlink_to(target)
    else:
        (run / "best").write_text(target)
    assert best_checkpoint(run) == step_folder(run, 10).resolve()


def test_a_link_that_was_copied_as_a_folder_is_the_best_until_there_is_a_better(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path / "run", 10, 20)
    shutil.copytree(step_folder(run, 10), run / "best")
    best = best_checkpoint(run)
    assert best == (run / "best").resolve()
    assert run_dir(best) == run.resolve()
    link_best(run, step_folder(run, 20))
    assert best_checkpoint(run) == step_folder(run, 20).resolve()


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of a trained run with one checkpoint more, the older one the best."""
    copy = Path(shutil.copytree(trained_run, tmp_path / "run", symlinks=True))
    last = last_checkpoint(copy)
    assert last is not None
    newest = step_folder(copy, int(last.name.removeprefix("step-")) + 1)
    shutil.copytree(last, newest)
    link_best(copy, last)
    return copy


def flip(path: Path) -> None:
    """Flip a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("training.pt", cut, "its training.pt is cut off or broken"),
        ("training.pt", lambda p: p.write_bytes(b""), "its training.pt is empty"),
        ("training.pt", Path.unlink, "it has no training.pt"),
        ("weights.safetensors", cut, "its weights.safetensors is cut off or broken"),
        ("weights.safetensors", lambda p: p.write_bytes(b"\0" * 100), "its weights.safetensors is"),
        ("recipe.yaml", lambda p: p.write_bytes(b""), "its recipe.yaml is empty"),
        ("vocabulary.json", Path.unlink, "it has no vocabulary.json"),
    ],
)
def test_a_newest_checkpoint_that_is_not_whole_is_named_with_the_one_before(
    name: str, damage: Callable[[Path], object], told: str, run: Path
) -> None:
    newest = last_checkpoint(run)
    assert newest is not None
    assert newest_whole(run) == (newest, [])
    damage(newest / name)
    last, ((damaged, why),) = newest_whole(run)
    assert last is not None
    assert last.resolve() == find_checkpoint(run)
    assert damaged == newest
    assert told in why


def test_resume_goes_on_from_the_checkpoint_before_a_damaged_one(run: Path) -> None:
    newest = last_checkpoint(run)
    assert newest is not None
    flip(newest / "training.pt")
    (run / "checkpoints/step-0000999").mkdir()
    resumed = radrep("train", run, "--resume")
    assert resumed.exit_code == 0, resumed.output
    told = " ".join(resumed.stderr.split())
    assert f"{newest} is damaged (its training.pt is not what was written" in told
    assert f"lies at {newest.name}.damaged" in told
    assert "step-0000999 is damaged (it has no weights.safetensors)" in told
    assert f"resuming from {find_checkpoint(run).name}" in told.replace(f"{newest.parent}/", "")
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert {f"{newest.name}.damaged", "step-0000999.damaged", find_checkpoint(run).name} == names


def test_resume_without_a_whole_checkpoint_says_why(run: Path) -> None:
    for folder in (run / "checkpoints").iterdir():
        flip(folder / "weights.safetensors")
    result = radrep("train", run, "--resume")
    assert result.exit_code == 2
    assert "no whole checkpoint to resume from" in result.stderr
    assert "its weights.safetensors is not what was written" in " ".join(result.stderr.split())


def test_a_lost_best_checkpoint_gives_way_to_the_last_validated_one(
    run: Path, films: list[Path]
) -> None:
    newest = last_checkpoint(run)
    assert newest is not None
    shutil.rmtree(newest)
    last = last_checkpoint(run)
    assert last is not None
    training = torch.load(last / "training.pt", weights_only=True)
    training["progress"] |= {"best_step": 4, "best": 0.0}  # of a checkpoint that is gone
    torch.save(training, last / "training.pt")
    write_checksums(last)
    resumed = radrep("train", run, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert find_checkpoint(run) == last.resolve()
    assert "at step 8" in resumed.output


@pytest.mark.parametrize("name", ["weights.safetensors", "vocabulary.json", "recipe.yaml"])
def test_a_flipped_bit_is_named(
    name: str, run: Path, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(find_checkpoint(run) / name)
    result = radrep("generate", films[0], "--checkpoint", run)
    assert result.exit_code == 2
    told = " ".join(result.stderr.split())
    assert f"its {name} is not what was written, by its checksum" in told
    newest = (run / "checkpoints").resolve() / "step-0000009"
    assert f"Its newest whole checkpoint is {newest}" in told
    assert f"Use it with: radrep generate {films[0]} --checkpoint {newest}" in told
    monkeypatch.setenv("RADREP_VERIFY", "0")
    anyway = radrep("generate", films[0], "--checkpoint", run)
    assert "by its checksum" not in anyway.stderr


def test_a_checkpoint_whose_copy_was_cut_short_is_refused(run: Path) -> None:
    best = find_checkpoint(run)
    (best / "checksums.json").unlink()
    with pytest.raises(CheckpointError, match="it has no checksums.json, which is written last"):
        load_checkpoint(best)


def test_a_run_of_before_checksums_goes_on_unverified(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in run.glob("checkpoints/*/*"):
        if file.name in ("checksums.json", "editing.safetensors"):
            file.unlink()
    refused = radrep("train", run, "--resume")
    assert "RADREP_VERIFY=0 reads it as it is" in " ".join(refused.stderr.split())
    monkeypatch.setenv("RADREP_VERIFY", "0")
    resumed = radrep("train", run, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert (find_checkpoint(run) / "editing.safetensors").is_file()
    assert not (find_checkpoint(run) / "checksums.json").exists()


def test_a_start_with_a_flipped_bit_is_refused(run: Path, tmp_path: Path) -> None:
    flip(find_checkpoint(run) / "weights.safetensors")
    with pytest.raises(CheckpointError, match="weights.safetensors is not what was written"):
        read_weights(find_checkpoint(run) / "weights.safetensors")


@pytest.mark.parametrize("named", ["the run", "best", "nothing"])
def test_eval_of_a_broken_best_gives_the_command_for_the_newest_whole_one(
    named: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    best, newest = find_checkpoint(run), last_checkpoint(run.resolve())
    if named == "nothing":
        (run.parent / "runs").mkdir()
        run = run.rename(run.parent / "runs" / "own")
        best, newest = find_checkpoint(run), last_checkpoint(run.resolve())
    cut(best / "weights.safetensors")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    words = {"the run": [run], "best": [run / "best"], "nothing": []}[named]
    result = radrep("eval", *words, "--split", "val", "--no-meteor")
    assert result.exit_code == 2
    told = " ".join(result.stderr.split())
    broken = "run/best" if named == "best" else best.name
    assert f"{broken} cannot be read: its weights.safetensors is cut off" in told
    command = told.partition("Use it with: ")[2]
    words = [newest, "--split", "val", "--no-meteor"]
    words = [*words[1:], newest] if named == "nothing" else words
    assert command == f"radrep eval {' '.join(map(str, words))}"
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before, (
        "nothing is written"
    )
    again = radrep(*command.split()[1:])
    assert again.exit_code == 0, again.output
    assert f"checkpoint {newest}" in " ".join(again.output.split())


def test_the_command_for_the_newest_whole_one_keeps_the_folder_for_results(run: Path) -> None:
    flip(find_checkpoint(run) / "vocabulary.json")
    told = " ".join(radrep("eval", "--no-meteor", run, "--out", run).stderr.split())
    newest = (run / "checkpoints").resolve() / "step-0000009"
    assert told.endswith(f"Use it with: radrep eval --no-meteor {newest} --out {run}")


def test_without_a_whole_checkpoint_no_command_is_named(run: Path) -> None:
    for folder in (run / "checkpoints").iterdir():
        flip(folder / "weights.safetensors")
    told = " ".join(radrep("eval", run).stderr.split())
    assert "its weights.safetensors is not what was written, by its checksum" in told
    assert "newest whole" not in told
    assert "Use it with" not in told


def test_a_lost_best_is_not_an_unfinished_epoch(run: Path, tmp_path: Path) -> None:
    newest = last_checkpoint(run)
    (run / "best").unlink()
    with pytest.raises(CheckpointError, match="has lost its best; --resume") as raised:
        find_checkpoint(run)
    assert str(newest) in str(raised.value)
    (run / "best").write_text("checkpoints/step-9999999")
    with pytest.raises(CheckpointError, match="leads to no checkpoint of the run"):
        find_checkpoint(run)
    (run / "best").unlink()
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    with pytest.raises(CheckpointError, match="has no finished epoch yet"):
        find_checkpoint(run)


def test_training_resumes_and_generates_on_a_disk_without_links(
    run: Path, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(last_checkpoint(run))  # type: ignore[arg-type]
    monkeypatch.setattr(os, "symlink", unsupported(OSError, errno.EOPNOTSUPP))
    (run / "best").unlink()
    resumed = radrep("train", run, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert (run / "best").read_text().startswith("checkpoints/step-")
    result = radrep("generate", films[0], "--checkpoint", run)
    assert result.exit_code == 0, result.output


def test_a_folder_of_several_runs_is_named_as_such(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"x-seeds/seed-{number}/checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="name one of its runs: seed-0, seed-1"):
        find_best(tmp_path / "x-seeds")
    with pytest.raises(CheckpointError, match=r"no best$"):
        find_best(tmp_path / "x-seeds/seed-0/checkpoints")
