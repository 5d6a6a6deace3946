"""Bundles: a trained model as one file and as a repository of the hub, and files of strangers."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub.errors import LocalTokenNotFoundError

import radrep.weights.bundle as bundle_module
from radrep.errors import CheckpointError
from radrep.inference.generator import ReportGenerator
from radrep.recipe.load import load_recipe
from radrep.weights.archive import NAMES
from radrep.weights.checkpoint import find_checkpoint
from tests.whole_way import radrep, read_metrics, write_recipe

REPORTS = ("selection.safetensors", "editing.safetensors", "consensus.safetensors")


@pytest.fixture(scope="module")
def bundle(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("bundle") / "model.zip"
    result = radrep("export", trained_run, "--bundle", file)
    assert result.exit_code == 0, result.output
    assert "training reports word for word" in result.stderr
    return file


def rewrite(bundle: Path, file: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    """A copy of a bundle whose members are changed."""
    with zipfile.ZipFile(bundle) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file


def test_a_bundle_writes_the_reports_of_its_run(
    bundle: Path, trained_run: Path, films: list[Path], tmp_path: Path
) -> None:
    here = radrep("generate", *films, "--checkpoint", trained_run)
    moved = shutil.copy(bundle, tmp_path / "elsewhere.zip")
    there = radrep("generate", *films, "--checkpoint", moved)
    assert there.exit_code == 0, there.output
    assert there.stdout == here.stdout
    assert len(there.stdout.splitlines()) == len(films)
    generator = ReportGenerator.from_pretrained(moved)
    assert generator.write(films[0]).text
    assert generator.fingerprint == ReportGenerator(trained_run).fingerprint
    assert "bundle" in radrep("cache").stdout


def test_unpacking_a_bundle_shows_its_progress_once(
    bundle: Path, films: list[Path], tmp_path: Path
) -> None:
    words = ("generate", films[0], "--checkpoint", shutil.copy(bundle, tmp_path / "copy.zip"))
    size = bundle.stat().st_size >> 20
    assert size, "large enough to be counted in MB"
    first, second = radrep(*words), radrep(*words)
    assert f"unpack  {size} MB in" in first.stderr
    assert "unpack  " not in second.stderr


def test_a_model_starts_from_a_bundle_as_from_its_run(
    bundle: Path, trained_run: Path, phantoms: Path, tmp_path: Path
) -> None:
    """Its backbone alone, and the whole model."""
    losses = []
    for start in (trained_run, bundle):
        for key in ("model.backbone.weights", "train.start_from"):
            folder = tmp_path / f"{start.name}-{key}"
            folder.mkdir()
            recipe = write_recipe(folder, phantoms, train={"epochs": 1})
            result = radrep("train", recipe, "--set", f"{key}={start}")
            assert result.exit_code == 0, result.output
            losses.append([row.get("loss") for row in read_metrics(folder / "run")])
    assert losses[:2] == losses[2:]
    assert losses[0] != losses[1]


def test_a_bundle_holds_these_files_and_has_the_same_bytes_again(
    bundle: Path, trained_run: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(bundle) as archive:
        assert set(archive.namelist()) == set(NAMES)
        sums = json.loads(archive.read("checksums.json"))
    assert set(sums) == set(NAMES) - {"checksums.json"}
    again = tmp_path / "again.zip"
    radrep("export", trained_run, "--bundle", again)
    assert again.read_bytes() == bundle.read_bytes()
    result = radrep("export", trained_run, "--bundle", again)
    assert result.exit_code == 2
    assert "exists already" in result.stderr


def test_an_evaluation_of_a_bundle_needs_a_folder(bundle: Path, tmp_path: Path) -> None:
    result = radrep("eval", bundle)
    assert result.exit_code == 2
    assert "--out" in result.stderr


def test_without_reports_no_sentence_of_them_is_in_it(
    trained_run: Path, films: list[Path], tmp_path: Path
) -> None:
    file = tmp_path / "model.zip"
    result = radrep("export", trained_run, "--bundle", file, "--without-reports")
    assert result.exit_code == 0, result.output
    assert "word for word" not in result.stderr
    with zipfile.ZipFile(file) as archive:
        assert not set(archive.namelist()) & set(REPORTS)
    result = radrep("generate", films[0], "--checkpoint", file)
    assert result.exit_code == 0, result.output
    assert load_recipe(str(find_checkpoint(file) / "recipe.yaml")).decode.select is None


class Explodes:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('code of a stranger ran')",))


STRANGERS: dict[str, tuple[Callable[[dict[str, bytes]], object], str]] = {
    "changed weights": (
        lambda m: m.update({"weights.safetensors": m["weights.safetensors"][:-1] + b"\x7f"}),
        "not what was written",
    ),
    "changed recipe": (
        lambda m: m.update({"recipe.yaml": m["recipe.yaml"] + b"\n# changed\n"}),
        "not what was written",
    ),
    "no checksums": (lambda m: m.pop("checksums.json"), "it has no checksums.json"),
    "a folder above": (lambda m: m.update({"../evil": b"x"}), "'../evil'"),
    "an absolute name": (lambda m: m.update({"/tmp/evil": b"x"}), "'/tmp/evil'"),
    "a pickle": (lambda m: m.update({"training.pt": b"x"}), "'training.pt'"),
    "code": (lambda m: m.update({"modeling.py": b"raise SystemExit"}), "'modeling.py'"),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_strangers_bundle_is_refused(name: str, bundle: Path, tmp_path: Path) -> None:
    change, words = STRANGERS[name]
    file = rewrite(bundle, tmp_path / "stranger.zip", change)
    with pytest.raises(CheckpointError, match=words):
        ReportGenerator.from_pretrained(file)
    assert not (tmp_path / "evil").exists()


def test_weights_that_are_a_pickle_are_not_run(bundle: Path, tmp_path: Path) -> None:
    torch.save(Explodes(), tmp_path / "pickle")
    evil = (tmp_path / "pickle").read_bytes()
    file = rewrite(bundle, tmp_path / "x.zip", lambda m: m.update({"weights.safetensors": evil}))
    with pytest.raises(CheckpointError, match=r"weights\.safetensors is cut off or broken"):
        ReportGenerator.from_pretrained(file)


def test_an_archive_that_unpacks_to_more_than_its_bytes_is_refused(
    bundle: Path, tmp_path: Path
) -> None:
    file = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bundle) as archive, zipfile.ZipFile(file, "w") as out:
        for name in archive.namelist():
            content = bytes(10**7) if name == "weights.safetensors" else archive.read(name)
            out.writestr(name, content, zipfile.ZIP_DEFLATED)
    result = radrep("generate", "film.png", "--checkpoint", file)
    assert result.exit_code == 2
    assert "is compressed" in " ".join(result.stderr.split())
    assert not list(tmp_path.glob("cache/bundles/*"))


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_cut_bundle_is_refused(cut: float, bundle: Path, tmp_path: Path) -> None:
    content = bundle.read_bytes()
    file = tmp_path / "cut.zip"
    file.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(CheckpointError, match="no bundle"):
        ReportGenerator.from_pretrained(file)


def test_an_archive_whose_list_of_files_is_broken_is_no_bundle(tmp_path: Path) -> None:
    file = tmp_path / "broken.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("recipe.yaml", "task: train")
    file.write_bytes(file.read_bytes().replace(b"PK\x01\x02", b"XXXX"))
    result = radrep("generate", "film.png", "--checkpoint", file)
    assert result.exit_code == 2
    assert "is a file and no bundle" in " ".join(result.stderr.split())


class Hub:
    """The hub's client with the signatures that test_canaries.py pins; repositories are folders."""

    folder: Path
    logged_in = True

    def whoami(self, token: bool | str | None = None, *, cache: bool = False) -> dict[str, str]:
        if not self.logged_in:
            raise LocalTokenNotFoundError("Token is required, but no token found.")
        return {"name": "me"}

    def create_repo(
        self, repo_id: str, *, private: bool | None = None, exist_ok: bool = False
    ) -> None:
        repository = self.folder / repo_id
        if not repository.exists():
            repository.mkdir(parents=True)
            (self.folder / "made.json").write_text(json.dumps({"private": private}))

    def repo_info(self, repo_id: str) -> SimpleNamespace:
        return SimpleNamespace(**json.loads((self.folder / "made.json").read_text()))

    def create_branch(self, repo_id: str, *, branch: str, exist_ok: bool = False) -> None:
        (self.folder / f"{repo_id}@{branch}").mkdir(exist_ok=exist_ok)

    def upload_folder(
        self,
        *,
        repo_id: str,
        folder_path: Path,
        commit_message: str | None = None,
        revision: str | None = None,
    ) -> SimpleNamespace:
        target = self.folder / (f"{repo_id}@{revision}" if revision else repo_id)
        shutil.copytree(folder_path, target, dirs_exist_ok=True)
        return SimpleNamespace(commit_url=f"https://hub.example/{repo_id}/commit/1")

    @classmethod
    def download(
        cls, repo_id: str, *, revision: str | None = None, allow_patterns: list[str] | None = None
    ) -> str:
        source = cls.folder / (f"{repo_id}@{revision}" if revision else repo_id)
        if not source.is_dir():
            raise OSError(f"404: {repo_id} not found")
        copy = cls.folder / "snapshot"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for name in allow_patterns or []:
            if (source / name).is_file():
                shutil.copy(source / name, copy / name)
        return str(copy)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(Hub, "folder", tmp_path / "hub", raising=False)
    monkeypatch.setattr(Hub, "logged_in", True)
    monkeypatch.setattr(bundle_module, "HfApi", Hub)
    monkeypatch.setattr(bundle_module, "snapshot_download", Hub.download)
    return tmp_path / "hub"


def test_push_and_from_pretrained_by_way_of_the_hub(
    hub: Path, trained_run: Path, films: list[Path]
) -> None:
    result = radrep("push", trained_run, "me/chest")
    assert result.exit_code == 2, "training reports leave the machine only if asked to"
    assert "--without-reports" in result.stderr
    assert not hub.exists()
    result = radrep("push", trained_run, "me/chest", "--with-reports", "--revision", "v1")
    assert result.exit_code == 0, result.output
    assert result.stdout == "https://hub.example/me/chest/commit/1\n"
    assert json.loads((hub / "made.json").read_text()) == {"private": True}
    pushed = hub / "me/chest@v1"
    assert (pushed / "README.md").read_text().startswith("---\nlibrary_name: radrep\n")
    (pushed / "modeling.py").write_text("raise SystemExit('code of a stranger ran')")
    model = ReportGenerator.from_pretrained("me/chest", revision="v1")
    assert model.write(films[0]).text == ReportGenerator(trained_run).write(films[0]).text
    assert not (hub / "snapshot/modeling.py").exists()
    (pushed / "vocabulary.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"vocabulary\.json is not what was written"):
        ReportGenerator.from_pretrained("me/chest", revision="v1")


def test_a_public_repository_is_pushed_to_on_request_alone(hub: Path, trained_run: Path) -> None:
    words = ("push", trained_run, "me/open", "--without-reports")
    Hub().create_repo("me/open", private=False)
    result = radrep(*words)
    assert result.exit_code == 2
    assert "me/open is public already" in " ".join(result.stderr.split())
    assert not list((hub / "me/open").iterdir())
    assert radrep(*words, "--public").exit_code == 0
    assert (hub / "me/open/weights.safetensors").is_file()


def test_the_hub_is_asked_only_for_what_it_can_have(
    hub: Path, bundle: Path, trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match="me/none is neither a file or folder here"):
        ReportGenerator.from_pretrained("me/none")
    with pytest.raises(CheckpointError, match="no OWNER/NAME"):
        ReportGenerator.from_pretrained(bundle, revision="v1")
    monkeypatch.setattr(Hub, "logged_in", False)
    result = radrep("push", trained_run, "me/chest", "--without-reports")
    assert result.exit_code == 2
    assert "hf auth login" in result.stderr
