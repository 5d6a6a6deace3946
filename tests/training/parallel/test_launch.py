"""Launch scripts: read by bash, and run with a scheduler of two dozen lines in Slurm's place."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from radrep.errors import RadrepError
from radrep.training.parallel.launch import parse_devices
from tests.whole_way import radrep, read_metrics, write_recipe

# Starts the processes of one machine as srun does since Slurm 22.05, a core for each where its own
# option asks for no more, and, the first time, signals them midway.
SRUN = """#!{python}
import argparse, os, subprocess, time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--wait", type=int, required=True)
asked = int(os.environ.get("SRUN_CPUS_PER_TASK", 1))
parser.add_argument("--cpus-per-task", type=int, default=asked)
parser.add_argument("command", nargs=argparse.REMAINDER)
given = parser.parse_args()
assert given.wait == 60
with open("{run}-cores", "a") as file:
    print(given.cpus_per_task, file=file)
cores = sorted(os.sched_getaffinity(0))[: given.cpus_per_task]
bind = lambda: os.sched_setaffinity(0, cores)
tasks = int(os.environ["SLURM_NTASKS"])
numbers = [{{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}} for i in range(tasks)]
started = [
    subprocess.Popen(given.command, env=os.environ | number, preexec_fn=bind) for number in numbers
]
metrics = Path("{run}/metrics.jsonl")
if not metrics.exists():
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 2:
        assert all(p.poll() is None for p in started)
        time.sleep(0.05)
    for process in started:
        process.send_signal({number})
raise SystemExit(max(process.wait() for process in started))
"""


def script_of(launcher: str, recipe: Path, *words: str) -> str:
    told = radrep("train", recipe, "--print-launch", launcher, *words)
    assert told.exit_code == 0, told.output
    return told.stdout


def tiny(folder: Path, prepared: Path) -> Path:
    train = {"batch_size": 2, "epochs": 2}
    return write_recipe(folder, prepared, train=train, decode={"max_new_tokens": 4, "select": None})


@pytest.mark.parametrize("launcher", ["slurm", "torchrun"])
@pytest.mark.parametrize("nodes", ["1", "2"])
def test_a_script_is_one_that_bash_reads(launcher: str, nodes: str, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, tmp_path)
    words = ("--devices", "8xH100-80GB", "--nodes", nodes, "--set", "train.seed=7")
    script = script_of(launcher, recipe, *words, "--out", str(tmp_path / "a run's"))
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "--set train.seed=7" in script
    assert sys.executable in script
    if launcher == "slurm":
        for line in (f"--nodes={nodes}", "--ntasks-per-node=8", "--gpus-per-node=8", "--requeue"):
            assert f"#SBATCH {line}" in script
        assert script.count("ACCOUNT") == 1
    else:
        assert ("--standalone" in script) is (nodes == "1")


def test_what_no_launcher_takes_is_refused(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, tmp_path)
    refused = radrep("train", recipe, "--print-launch", "pbs")
    assert refused.exit_code == 2
    assert "slurm or torchrun, got 'pbs'" in refused.stderr
    with pytest.raises(RadrepError, match="got 'eight'"):
        parse_devices("eight")
    assert parse_devices("2xCPU") == (2, "cpu")
    assert parse_devices("8") == (8, "")
    assert parse_devices("H100-80GB") == (1, "h100-80gb")


def test_a_run_that_goes_on_has_the_words_of_the_command(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, tmp_path)
    words = ("--set", "optim.lr=1e-3", "--logger", "wandb")
    kept = "--set optim.lr=1e-3 --set train.logger=wandb"
    script = script_of("torchrun", recipe, *words)
    assert f"words=(train {tmp_path}/run --resume {kept})" in script
    assert f"words=(train {recipe} {kept} --out {tmp_path}/run)" in script
    script = script_of("torchrun", recipe, *words, "--resume")
    assert f"words=(train {recipe} --out {tmp_path}/run --resume {kept})" in script
    assert "recipe.yaml ]" not in script
    (tmp_path / "run").mkdir()
    (tmp_path / "run/recipe.yaml").write_text(recipe.read_text())
    script = script_of("slurm", tmp_path / "run", *words, "--resume")
    assert f"words=(train {tmp_path}/run --resume {kept})" in script


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("pretrain", "recipe.yaml"), "'train' is done by: radrep train"),
        (("train", "recipe.yaml", "--folds", "2"), "leave it out"),
        (("train", "recipe.yaml", "--seeds", "2"), "leave it out"),
        (("train", "folds", "--resume"), "leave it out"),
        (("train", "run"), "is a run; resume it by adding --resume"),
    ],
)
def test_a_script_that_would_fail_in_the_job_is_not_printed(
    words: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = write_recipe(tmp_path, tmp_path).read_text()
    for name in ("recipe.yaml", "run/recipe.yaml", "folds/folds.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    result = radrep(*words, "--print-launch", "slurm")
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.split())
    assert not result.stdout


@pytest.mark.slow
def test_the_slurm_script_goes_on_when_it_is_requeued(tmp_path: Path, phantoms: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text(script_of("slurm", tiny(tmp_path, phantoms), "--devices", "2xCPU"))
    commands = tmp_path / "bin"
    commands.mkdir()
    number = int(signal.SIGUSR1)
    srun = SRUN.format(python=sys.executable, run=tmp_path / "run", number=number)
    (commands / "srun").write_text(srun)
    (commands / "scontrol").write_text(
        f'#!/bin/bash\n[ "$1" = show ] && echo 127.0.0.1 || echo "$@" >> {tmp_path}/requeued\n'
    )
    for file in commands.iterdir():
        file.chmod(0o755)
    job = {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "here"}
    job |= {"SLURM_CPUS_PER_TASK": "2"}  # as if its line were edited
    environment = os.environ | job | {"PATH": f"{commands}:{os.environ['PATH']}"}
    codes = []
    for _ in range(2):
        done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True)
        codes.append(done.returncode)
    assert codes == [75, 0], done.stderr
    assert (tmp_path / "run-cores").read_text() == "2\n2\n", "as #SBATCH has it"
    assert (tmp_path / "requeued").read_text() == "requeue 17\n"
    assert [row["step"] for row in read_metrics(tmp_path / "run") if "loss" in row][-1] == 16


@pytest.mark.slow
def test_the_torchrun_script_trains_with_two_processes(tmp_path: Path, phantoms: Path) -> None:
    script = script_of("torchrun", tiny(tmp_path, phantoms), "--devices", "2xCPU")
    done = subprocess.run(["bash"], input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    recorded = yaml.safe_load((tmp_path / "run/environment.json").read_text())
    assert recorded["num_processes"] == 2
    assert len([row for row in read_metrics(tmp_path / "run") if "loss" in row]) == 16
