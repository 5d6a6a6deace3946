"""--engine ray: a cluster of three machines' processes writes the bytes that one process writes."""

import errno
import json
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from radrep.errors import DataError
from radrep.parallel import cluster
from radrep.parallel.cluster import Cluster, _Driver, _run_block
from radrep.training.features import entry
from tests.data.dicom.drawing import DEEP, draw
from tests.reporting.mixed_films import add_broken, draw_films
from tests.saliency.test_sdam import write_discriminator
from tests.whole_way import TINY, radrep, start_radrep, write_recipe

PHANTOMS = ("prepare", "phantom", "--image-size", "64")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((*PHANTOMS, "--engine", "spark"), "--engine must be local or ray, got 'spark'"),
        ((*PHANTOMS, "--address", "auto"), "--address goes with --engine ray"),
        ((*PHANTOMS, "--engine", "ray", "--workers", "2"), "--workers is for --engine local"),
        (("generate", "a.png", "--engine", "ray"), "add --out DIR"),
        (("generate", "a.png", "--worker-cores", "2"), "--worker-cores goes with --engine ray"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    words: tuple[str, ...], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = radrep(*words)
    assert result.exit_code == 2
    assert text in " ".join(result.stderr.split())
    assert not list(tmp_path.iterdir())


def test_without_ray_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    out = tmp_path / "data"
    result = radrep(*PHANTOMS, "--num-studies", "20", "--out", out, "--engine", "ray")
    assert result.exit_code == 2
    assert "pip install 'radrep[ray]'" in result.stderr
    assert not out.exists()


def test_without_a_block_no_worker_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert not list(Cluster().map_with_model(lambda: len, [], tmp_path))


def test_a_worker_hands_on_what_its_disk_refuses(tmp_path: Path) -> None:
    def fill(block: int) -> None:
        raise OSError(errno.ENOSPC, "no space left", str(tmp_path / "a.arrow"))

    answer = _run_block({"block": [pickle.dumps(1)]}, fill, _Driver.of(tmp_path))
    _, error = pickle.loads(answer["result"][0])
    assert (error.errno, error.filename) == (errno.ENOSPC, str(tmp_path / "a.arrow"))


class Repeating(Cluster):
    """Has each block done twice, as Ray does where a machine is lost behind its last write."""

    def run(self, warn: object) -> Any:
        return nullcontext()

    def map_blocks(
        self, function: Callable[[Any], Any], blocks: Iterable[Any], folder: Path
    ) -> Iterator[Any]:
        for block in blocks:
            first = pickle.loads(pickle.dumps(function(pickle.loads(pickle.dumps(block)))))
            times = times_of(folder)
            second = function(pickle.loads(pickle.dumps(block)))
            assert second == first
            assert times_of(folder) == times, "what is done is not made again"
            yield second

    def map_with_model(
        self, load: Callable[[], Callable[[Any], Any]], blocks: list[Any], folder: Path
    ) -> Iterator[Any]:
        return self.map_blocks(pickle.loads(pickle.dumps(load))(), blocks, folder)


def times_of(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_a_block_that_a_lost_machine_had_done_is_not_made_again(
    trained_run: Path, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "Cluster", Repeating)
    result = radrep("train", write_discriminator(tmp_path, phantoms))
    assert result.exit_code == 0, result.output
    data, films = tmp_path / "data", draw_films(tmp_path / "films", 6)
    window = {"WindowCenter": "9000", "WindowWidth": "100"}
    (films / "deep.dcm").write_bytes(draw(DEEP, elements=window))
    on_ray = ("--engine", "ray")
    for words in (
        (*PHANTOMS, "--num-studies", 12, "--out", data),
        ("prepare", "saliency", "--data", data, "--checkpoint", tmp_path / "run"),
        ("generate", films, "--checkpoint", trained_run, "--out", tmp_path / "reports"),
    ):
        result = radrep(*words, *on_ray)
        assert result.exit_code == 0, result.output
    assert "window" in result.stderr, "a warning of a block is told"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Three node processes of one core each, as a user would start them."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster as Nodes

    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1})
    for _ in range(2):
        nodes.add_node(num_cpus=1)
    yield nodes.address
    nodes.shutdown()


@pytest.mark.parametrize(
    "num", [pytest.param(700, marks=pytest.mark.slow), pytest.param(5000, marks=pytest.mark.soak)]
)
def test_prepare_masks_and_reports_equal_those_of_one_process(
    num: int, address: str, trained_run: Path, phantoms: Path, tmp_path: Path
) -> None:
    start_and_wait("train", write_discriminator(tmp_path, phantoms))
    discriminator = tmp_path / "run"
    on_ray = ("--engine", "ray", "--address", address)
    films, prepared = draw_films(tmp_path / "films", 40), tmp_path / "many" / "data"
    add_broken(films)
    for name, engine in (("many", on_ray), ("one", ())):
        data = tmp_path / name / "data"
        start_and_wait(*PHANTOMS, "--num-studies", str(num), "--out", data, *engine)
        start_and_wait(
            *("prepare", "saliency", "--data", data, "--checkpoint", discriminator),
            *engine,
        )
        for images, code in ((films, 2), (prepared, 0)):
            out = tmp_path / name / f"reports of {images.name}"
            if not engine:
                begin_as(tmp_path / "many" / out.name, out)
            words = ("generate", images, "--checkpoint", trained_run, "--out", out)
            start_and_wait(*words, *engine, code=code)
    one, many = contents(tmp_path / "one"), contents(tmp_path / "many")
    assert sum(name.endswith(".arrow") for name in one) >= 6
    assert one.keys() == many.keys()
    assert [name for name in one if one[name] != many[name]] == []


def begin_as(other: Path, out: Path) -> None:
    """Have reports begin when other ones did: their rows have that time."""
    record = json.loads((other / "generated.json").read_text())
    out.mkdir()
    (out / "generated.json").write_text(json.dumps({**record, "finished": False}))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray's own
def test_features_equal_those_of_one_process(
    address: str, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry, "BLOCK", 16)  # a batch each
    model = {"backbone": TINY["model"]["backbone"] | {"frozen": True}}
    recipe = write_recipe(tmp_path, phantoms, train={"epochs": 1}, model=model)
    for name, engine in (("many", ("--engine", "ray", "--address", address)), ("one", ())):
        monkeypatch.setenv("RADREP_CACHE", str(tmp_path / name))
        for words in (("cache", "fill", recipe, *engine), ("train", recipe)):
            result = radrep(*words)
            assert result.exit_code == 0, result.output
        assert "from the cache, 32 images of train" in result.stderr
    many = contents(tmp_path / "many/features")
    blocks = 3 * 2 + 1  # of three entries of train, and of val
    assert len(many) == 2 * blocks + 4
    assert many == contents(tmp_path / "one/features")


def marked(mark: str) -> list[str]:
    """The command lines of processes that have a variable of the environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if mark in process.environ():
                found.append(" ".join(process.cmdline()))
    return found


@pytest.mark.slow
def test_a_cluster_is_started_and_ended_unless_ray_address_names_one(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_and_wait(*PHANTOMS, "--num-studies", "12", "--out", tmp_path / "one")
    for name, starts in (("own", True), ("named", False)):
        if not starts:
            monkeypatch.setenv("RAY_ADDRESS", address)
        monkeypatch.setenv(mark := f"RADREP_TEST_{os.getpid()}_{name}", "1")
        words = (*PHANTOMS, "--num-studies", "12", "--out", tmp_path / name, "--engine", "ray")
        command, raylets = start_radrep(*words), False
        while command.poll() is None:
            raylets = raylets or any("raylet/raylet" in line for line in marked(mark))
        _, error = command.communicate()
        assert command.returncode == 0, error
        assert raylets == starts
        assert not [line for line in marked(mark) if "raylet" in line or "gcs_server" in line]
        assert contents(tmp_path / name) == contents(tmp_path / "one")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 500 kB: room for the shards of val and test, not for that of train."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", str(disk)]
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root of a Linux machine can mount a small disk")
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_in_a_worker_costs_its_blocks(
    address: str, small_disk: Path, tmp_path: Path
) -> None:
    words = (*PHANTOMS, "--num-studies", "200", "--engine", "ray", "--address", address)
    full = start_radrep(*words, "--out", small_disk / "data")
    _, error = full.communicate(timeout=600)
    assert full.returncode == 2
    assert "no space left on the disk" in error
    summaries = small_disk.glob("data.partial/*.summary.json")
    done = {p.name.removesuffix(".summary.json"): p.stat().st_mtime_ns for p in summaries}
    # The shard of train fills the disk before those of val and test, or after them.
    assert ("run the same command again" if done else "Nothing was kept") in error
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    start_and_wait(*words, "--out", small_disk / "data")
    start_and_wait(*PHANTOMS, "--num-studies", "200", "--out", tmp_path / "one")
    assert contents(small_disk / "data") == contents(tmp_path / "one")
    for name, finished in done.items():
        assert (small_disk / "data" / name).stat().st_mtime_ns <= finished


def start_and_wait(*words: str | Path, code: int = 0) -> None:
    started = start_radrep(*words)
    _, error = started.communicate(timeout=3600)
    assert started.returncode == code, error


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray's own
def test_a_worker_without_the_folder_is_an_error_that_names_both(
    address: str, tmp_path: Path
) -> None:
    cluster = Cluster(address)
    with (
        cluster.run(warnings.warn),
        pytest.raises(DataError, match=r"nowhere is not there on .+ must share"),
    ):
        list(cluster.map_blocks(os.path.basename, ["a"], tmp_path / "nowhere"))
