"""--engine ray with the driver or a machine killed in the middle: the bytes of one process."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from radrep.preparation import pipeline
from tests.crash.contents import name_differences, read_contents
from tests.crash.warm import Warm
from tests.saliency.test_sdam import write_discriminator
from tests.whole_way import TINY, draw_prepared, radrep, write_recipe

Words = list[str | Path]


@dataclass(frozen=True)
class Bulk:
    """A command of many small blocks (see Warm), which works in a folder of its own."""

    words: Callable[[Path], Words]
    marks: str  # the files that mark blocks as done
    num_blocks: int

    def done(self, folder: Path) -> dict[str, int]:
        """When each block was written, by the name that it has in the end."""
        blocks = [
            mark.with_name(mark.name.removesuffix(".summary.json"))
            for mark in folder.glob(self.marks)
        ]
        return {
            str(block.relative_to(folder)).replace(".partial/", "/"): block.stat().st_mtime_ns
            for block in blocks
        }


@pytest.fixture(scope="module")
def commands(
    tmp_path_factory: pytest.TempPathFactory, phantoms: Path, trained_run: Path
) -> dict[str, Bulk]:
    """Of 48 phantoms."""
    folder = tmp_path_factory.mktemp("bulk")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "SHARD_STUDIES", 4)
        prepared = draw_prepared(folder / "data")
    result = radrep("train", write_discriminator(folder, phantoms))
    assert result.exit_code == 0, result.output

    model = {"backbone": TINY["model"]["backbone"] | {"frozen": True}}
    data = TINY["data"] | {"image_size": 512}  # of which a block takes a while
    (folder / "frozen").mkdir()
    more = draw_prepared(folder / "more", 240)
    frozen = write_recipe(folder / "frozen", more, model=model, data=data)

    def saliency(new: Path) -> Words:
        shutil.copytree(prepared, new / "data")
        return ["prepare", "saliency", "--data", new / "data", "--checkpoint", folder / "run"]

    return {
        "prepare": Bulk(
            lambda new: [
                *("prepare", "phantom", "--num-studies", "48", "--image-size", "64"),
                *("--out", new / "data"),
            ],
            "data.partial/*.summary.json",
            num_blocks=14,
        ),
        "prepare saliency": Bulk(saliency, "data/saliency/*.partial/*.summary.json", num_blocks=12),
        "generate": Bulk(
            lambda new: [
                *("generate", phantoms, "--checkpoint", trained_run, "--out", new / "reports")
            ],
            "reports/part-*.done.json",
            num_blocks=24,
        ),
        "cache fill": Bulk(
            lambda _: ["cache", "fill", frozen],
            "cache/features/*/*.npy.sha256",
            num_blocks=3 * 10 + 3,  # of three entries of train, and of val
        ),
    }


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    with Warm() as warm:
        yield warm


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A machine that does no block; others join it."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    lean = {"num_cpus": 0, "include_dashboard": False, "include_log_monitor": False}
    cluster = Cluster(initialize_head=True, head_node_args=lean)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def nodes(cluster: Any) -> Any:
    """The same, with two machines of one core each."""
    while len(cluster.worker_nodes) < 2:
        cluster.add_node(num_cpus=1)
    return cluster


def node_at_work(nodes: Any, deadline: float) -> Any:
    """The machine of a process that has a block, by the name that Ray gives such processes."""
    while time.monotonic() < deadline:  # between two blocks none has that name
        for node in nodes.worker_nodes:
            (raylet,) = node.all_processes["raylet"]
            for child in psutil.Process(raylet.process.pid).children():
                with suppress(psutil.NoSuchProcess):
                    if "MapBatches" in " ".join(child.cmdline()):
                        return node
    raise AssertionError("no machine is at work")


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["driver", "machine"])
@pytest.mark.parametrize("name", ["prepare", "prepare saliency", "generate", "cache fill"])
def test_a_kill_in_the_middle_leaves_the_bytes_of_one_process(
    name: str,
    killed: str,
    commands: dict[str, Bulk],
    warm: Warm,
    nodes: Any,
    tmp_path: Path,
) -> None:
    command, many, one, log = commands[name], tmp_path / "many", tmp_path / "one", tmp_path / "log"
    for folder in (many, one):
        folder.mkdir()
    on_ray = [*command.words(many), "--engine", "ray", "--address", nodes.address]
    caches = {"RADREP_CACHE": str(many / "cache")}
    driver = warm.start(on_ray, log, **caches)
    deadline = time.monotonic() + 900
    while not command.done(many):
        assert time.monotonic() < deadline
        assert psutil.Process(driver).status() != psutil.STATUS_ZOMBIE, error_of(log)
        time.sleep(0.01)
    if killed == "driver":
        os.kill(driver, signal.SIGKILL)
    else:
        nodes.remove_node(node_at_work(nodes, deadline), allow_graceful=False)
    done = command.done(many)
    assert 0 < len(done) < command.num_blocks
    code = warm.wait(driver)
    if killed == "driver":
        assert code == -signal.SIGKILL
        code = warm.wait(warm.start(on_ray, log, **caches))
    assert code == 0, error_of(log)
    lost = "the cluster lost a machine" in " ".join(error_of(log).split())
    assert lost == (killed == "machine")
    for block, time_ in done.items():
        assert (many / block).stat().st_mtime_ns == time_, "what was done is not made again"
    alone = warm.start(command.words(one), log, RADREP_CACHE=str(one / "cache"))
    assert warm.wait(alone) == 0, error_of(log)
    assert not name_differences(read_contents(many), read_contents(one))


def error_of(log: Path) -> str:
    return Path(f"{log}.err").read_text()
