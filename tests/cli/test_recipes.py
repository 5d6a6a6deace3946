"""radrep recipes: list what is shipped, copy it out, overwrite nothing."""

import errno
from pathlib import Path

import pytest
from typer.testing import CliRunner

from radrep.cli import app
from radrep.recipe.load import load_recipe, shipped_recipe_text


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *args: CliRunner().invoke(app, ["recipes", *args])


def test_the_list_has_one_whole_line_a_recipe(invoke):
    lines = invoke().stdout.splitlines()
    assert lines[0].split() == ["recipe", "what", "it", "does"]
    for name in ("csr_lmca_iu", "csr_lmca_iu_cpu", "csr_lmca_mimic", "demo"):
        header = shipped_recipe_text(name).splitlines()[0].removeprefix("# ")
        assert any(line.split(maxsplit=1) == [name, header] for line in lines)
    assert not any(line.endswith(" ") for line in lines)


def test_a_copy_is_the_shipped_text_and_loads(invoke):
    result = invoke("copy", "demo")
    assert result.exit_code == 0
    assert result.stdout == "demo.yaml\nRun it with: radrep train demo.yaml\n"
    assert Path("demo.yaml").read_text() == shipped_recipe_text("demo")
    assert load_recipe("demo.yaml") == load_recipe("demo")


def test_a_copy_goes_to_a_file_or_into_a_folder(invoke):
    assert invoke("copy", "demo.yaml", "new/mine.yaml").exit_code == 0
    assert invoke("copy", "csr_lmca_iu", "new").exit_code == 0
    assert sorted(path.name for path in Path("new").iterdir()) == ["csr_lmca_iu.yaml", "mine.yaml"]


def test_a_copy_never_overwrites(invoke):
    Path("demo.yaml").write_text("mine")
    result = invoke("copy", "demo")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: demo.yaml exists already. Give another name: radrep recipes copy demo FILE\n"
    )
    assert Path("demo.yaml").read_text() == "mine"


def test_a_full_disk_leaves_no_half_copy(invoke, monkeypatch):
    class FullDisk:
        def __init__(self, path: Path) -> None:
            path.touch()

        def __enter__(self) -> "FullDisk":
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def write(self, text: str) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    real_open = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda path, mode="r", **options: (
            FullDisk(path) if mode == "x" else real_open(path, mode, **options)
        ),
    )
    result = invoke("copy", "demo")
    assert result.exit_code == 2
    assert "no disk space left" in result.stderr
    assert not Path("demo.yaml").exists()


def test_a_path_into_no_checkout_means_the_shipped_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = "recipes/demo.yaml is no file here: this is the shipped recipe demo\n"
    named, path = (
        CliRunner().invoke(app, ["train", name]) for name in ("demo", "recipes/demo.yaml")
    )
    assert named.exit_code == path.exit_code == 2, "there are no phantoms"
    assert line in path.stdout
    assert line not in named.stdout
    assert "radrep-demo/data" in path.stderr
