"""A bundle in an environment that has radrep's wheel and what it requires, and nothing else."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import Distribution, PathDistribution, distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from radrep.inference.generator import ReportGenerator
from tests.test_packaging import built
from tests.whole_way import radrep

pytestmark = pytest.mark.slow
__all__ = ["built"]  # the fixture

NOWHERE = "http://127.0.0.1:9"
OFFLINE = {
    **dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"), "1"),
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), NOWHERE),
}
# Packages of the extras and of development, by the name that is imported.
EXTRAS = ("fhir", "gguf", "highdicom", "hypothesis", "jsonschema", "optuna", "pytest", "ray")
EXTRAS += ("starlette", "uvicorn", "tensorboard")

WRITE = """
import sys
from importlib.util import find_spec
from pathlib import Path

import radrep
from radrep.inference.generator import ReportGenerator

checkpoint, film, *extras = sys.argv[1:]
assert Path(radrep.__file__).is_relative_to(sys.prefix), radrep.__file__
assert not any(map(find_spec, extras)), [name for name in extras if find_spec(name)]
print(ReportGenerator.from_pretrained(checkpoint).write(film).text)
"""

BY_NAME = """
import sys
import zipfile

import huggingface_hub

bundle, film = sys.argv[1:]


def snapshot_download(repository, *, revision, allow_patterns):
    assert (repository, revision) == ("me/chest", "v1")
    with zipfile.ZipFile(bundle) as packed:
        packed.extractall("snapshot", {*packed.namelist()} & {*allow_patterns})
    return "snapshot"


huggingface_hub.snapshot_download = snapshot_download  # the client's, before radrep imports it

from radrep.inference.generator import ReportGenerator

print(ReportGenerator.from_pretrained("me/chest", revision="v1").write(film).text)
"""


def required(package: Distribution, found: dict[str, Distribution], *extras: str) -> None:
    """Collect what a distribution requires with some extras, and what that requires."""
    for text in package.requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            continue
        name = "[".join((requirement.name, *sorted(requirement.extras)))
        if name not in found:
            found[name] = distribution(requirement.name)
            required(found[name], found, *requirement.extras)


def link(package: Distribution, site: Path) -> None:
    """Have a folder show the top files and folders of a distribution."""
    for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
        target = site / top
        if not target.is_symlink():  # nvidia/ is of several
            target.symlink_to(Path(str(package.locate_file(top))))


@pytest.fixture(scope="module")
def python(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with radrep's wheel and its requirements."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (info,) = built.glob("*.dist-info")
    found: dict[str, Distribution] = {}
    required(PathDistribution(info), found)
    for package in found.values():
        link(package, site)
    for part in built.iterdir():
        part.rename(site / part.name)
    ours = {package.metadata["Name"] for package in found.values()}
    others = [own for own in distributions() if own.metadata["Name"] not in {*ours, "radrep"}]
    shared = {file.parts[0] for own in others for file in own.files or ()} - {"..", "__pycache__"}
    assert not [name for name in shared if (site / name).exists()], "of packages left out"
    return folder / "bin" / "python"


@contextmanager
def moved_away(*folders: Path) -> Iterator[None]:
    """Have folders not be where a run's recipe names them."""
    hidden = [folder.rename(folder.with_name(f"{folder.name} elsewhere")) for folder in folders]
    try:
        yield
    finally:
        for folder, place in zip(folders, hidden, strict=True):
            place.rename(folder)


def test_a_bundle_writes_the_same_report_where_only_requirements_are_installed(
    python: Path, trained_run: Path, phantoms: Path, films: list[Path], tmp_path: Path
) -> None:
    bundle = tmp_path / "model.zip"
    assert radrep("export", trained_run, "--bundle", bundle).exit_code == 0
    report = ReportGenerator.from_pretrained(bundle).write(films[0]).text
    printed = radrep("generate", films[0], "--checkpoint", bundle).stdout
    assert report in printed
    for name in ("bare home", "bare cache"):
        (tmp_path / name).mkdir()
    places = {"HOME": str(tmp_path / "bare home"), "RADREP_CACHE": str(tmp_path / "bare cache")}
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", **OFFLINE, **places}

    def run(*words: str | Path) -> str:
        done = subprocess.run(
            [python, "-I", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    with moved_away(trained_run, phantoms):
        assert run("-c", WRITE, bundle, films[0], *EXTRAS) == f"{report}\n"
        assert any((tmp_path / "bare cache").iterdir()), "it was unpacked there"
        assert run("-c", BY_NAME, bundle, films[0]) == f"{report}\n"
        assert run("-m", "radrep", "generate", films[0], "--checkpoint", bundle) == printed
