"""README and .github/docs: every link resolves, every command is one that radrep takes, and runs.

Commands are checked twice: all of them by radrep's own parser, in milliseconds; and, as a slow
test, page by page in a workspace where phantoms stand for data sets and small networks for large.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from radrep.cli import app
from radrep.recipe.load import load_recipe, shipped_recipe_text, shipped_recipes
from radrep.recipe.problems import RENAMED
from tests.cli.test_bad_data import make_chexpert, make_folder, make_iu, make_mimic
from tests.whole_way import draw_prepared, radrep, write_films

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / ".github/docs").glob("*.md"))]
COMMAND = typer.main.get_command(app)
USAGE_ERROR = typer.BadParameter.__mro__[1]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in FENCE.findall(page.read_text()) if name == language]


def commands(page: Path) -> list[list[str]]:
    """The commands of a page's shell blocks, as words."""
    found = []
    for line in "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            found.append(words[:end])
            words = words[end + 1 :]
    return found


def inline_code(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text()))


def parse(words: list[str]) -> None:
    """Raise what radrep raises when it is called with these words, without running it."""
    command: Any = COMMAND
    for name in words:
        if not hasattr(command, "commands") or name.startswith("-"):
            break
        assert name in command.commands, f"radrep has no command {name}"
        command, words = command.commands[name], words[1:]
    if not hasattr(command, "commands"):
        command.make_context("radrep", list(words))
    else:
        assert set(words) <= {name for option in command.params for name in option.opts}


def check_recipe(words: list[str]) -> None:
    """Whether the recipe of `train` or `pretrain` is shipped and has the keys of --set."""
    if words[0] not in ("train", "pretrain") or words[1].isupper():
        return
    overrides = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    task = load_recipe(words[1], [each for each in overrides if "KEY" not in each]).task
    assert task == words[0]


def check_pip(words: list[str]) -> None:
    """Whether the extras of this package are those that it has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for word in words:
        extras = re.fullmatch(r"(?:\.|radrep)\[(.+)\]", word)
        assert not extras or set(extras[1].split(",")) <= set(project["optional-dependencies"])


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return text.replace(" ", "-")


@by_page
def test_every_link_resolves(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text()))
    assert links
    for link in links:
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.is_file(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert anchor in map(slug, headings), link


@by_page
def test_every_block_states_what_it_holds(page: Path) -> None:
    assert {name for name, _ in FENCE.findall(page.read_text())} <= {"bash", "python", "text"}


@by_page
def test_every_command_is_one_that_radrep_takes(page: Path) -> None:
    for words in commands(page):
        if "pip" in words:
            check_pip(words)
        if words[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(words[2]), words
        if "radrep" in words:
            words = words[words.index("radrep") + 1 :]
            parse(words)
            check_recipe(words)


@by_page
def test_every_command_named_in_a_sentence_exists(page: Path) -> None:
    for code in inline_code(page):
        if re.match(r"(accelerate launch .*)?radrep ", code):
            words = code[code.index("radrep ") :].split()[1:]
            try:
                parse(words)
            except USAGE_ERROR as error:
                if type(error).__name__ != "MissingParameter":
                    raise
        if re.fullmatch(r"tests/\S+\.py", code):
            assert (ROOT / code).is_file()
        if re.fullmatch(r"bench_\w+\.py", code):
            assert (ROOT / "tests/benchmarks" / code).is_file()


def walk(command: Any) -> Iterator[Any]:
    yield command
    for child in getattr(command, "commands", {}).values():
        yield from walk(child)


def test_examples_in_help_texts_and_recipe_headers_are_taken() -> None:
    texts = [command.help or "" for command in walk(COMMAND)]
    texts += [shipped_recipe_text(name) for name, _ in shipped_recipes()]
    pattern = r"^#? *(?:Example|Compare|Others|Run|Change): +radrep (.+)$"
    lines = [line for text in texts for line in re.findall(pattern, text, re.MULTILINE)]
    assert len(lines) > 40
    for line in lines:
        words = shlex.split(line)
        parse(words)
        check_recipe(words)


def test_an_unknown_option_or_key_in_a_page_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```bash\nradrep eval --splits val  # why\nradrep train demo --set a.b=1\n```\n"
    )
    first, second = commands(page)
    assert first == ["radrep", "eval", "--splits", "val"]
    with pytest.raises(USAGE_ERROR, match="splits"):
        parse(first[1:])
    with pytest.raises(Exception, match=r"a\.b|unknown"):
        check_recipe(second[1:])
    with pytest.raises(AssertionError):
        parse(["evaluate"])


def test_the_readme_is_short_and_names_every_recipe() -> None:
    text = PAGES[0].read_text()
    assert len(text.splitlines()) <= 150
    first = text.split("\n## ")[1]
    assert "pip install . && radrep demo\npip install -e '.[dev]' && pytest\n" in first
    named = set(re.findall(r"`([a-z_]+)`", text))
    stems = re.findall(r"`([a-z]+)_iu`, `(_mimic)`, `(_chexpert_plus)`", text)
    named |= {stem + rest for stem, *endings in stems for rest in ("_iu", *endings)}
    assert {name for name, _ in shipped_recipes()} <= named


def test_the_changelog_names_every_renamed_key() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    for old, new in RENAMED.items():
        assert old.split(".")[-1] in text
        assert re.split(r"[.\s:]", new)[-1] in text


@by_page
def test_python_that_needs_no_model_runs(page: Path) -> None:
    for code in blocks(page, "python"):
        if "ReportGenerator" not in code:  # the slow test runs that one
            exec(compile(code, page.name, "exec"), {})


# What a workspace cannot run, and why.
NOT_RUN = {
    r"(\w+=\w+ )?pip .*": "installs; a fresh environment does it in .ci/run",
    r"(pytest|ruff|mypy|lint-imports)\b.*": "checks the repository; .ci/run does it",
    r"python -m tests\.benchmarks.*": "takes minutes",
    r"radrep import .*": "needs a published file; tests/weights writes files like it",
    r"radrep data labels .*": "needs Rad-ReStruct; tests/cli/test_data_labels.py writes one",
    r"radrep train emrrg_(iu|mimic .*)": "needs GPUs and Llama-2-7B",
}
SMALL_TRAINING = (
    "train.epochs=1",
    "train.precision=fp32",
    "data.num_workers=0",
    "data.image_size=64",
)
SMALL_BACKBONE = ("model.backbone.name=test_resnet.r160_in1k", "model.backbone.weights=none")
SMALL_CSR_LMCA = (
    *SMALL_BACKBONE,
    "model.enhancer.dim=16",
    "model.memory.size=16",
    "model.memory.top_k=4",
    "model.transformer.dim=16",
    "model.transformer.num_heads=2",
    "model.transformer.ff_dim=16",
    "decode.max_new_tokens=8",
    "decode.beam_size=2",
    "data.tokenizer.min_count=1",
    "data.max_tokens=7",  # room for an impression
)
SMALL: dict[str, tuple[str, ...]] = {
    "demo": (*SMALL_CSR_LMCA, "train.epochs=1", "data.image_size=64"),
    "csr_lmca_iu_cpu": SMALL_CSR_LMCA,
    "csr_lmca_iu_saliency_cpu": SMALL_CSR_LMCA,
    "sdam_discriminator_cpu": (*SMALL_BACKBONE, "model.backbone.frozen_stages=3"),
    "pretrain_autoregressive_cpu": ("model.cluster_size=2",),
    "pretrain_contrastive_cpu": (),
    "pretrain_labels_cpu": (),
    "emrrg_iu_cpu": (
        "model.language_model.name=tiny:llama",
        "model.language_model.precision=fp32",
        "model.hybrid.every_n_layers=2",
        "decode.max_new_tokens=8",
    ),
}


# Runs that a page names before it makes them: small ones of these recipes take their place.
STAND_INS = {
    "runs/a": "csr_lmca_iu_cpu",
    "runs/b": "csr_lmca_iu_cpu",
    "runs/csr_lmca_iu_cpu": "csr_lmca_iu_cpu",
    "runs/phantom": "sdam_discriminator_cpu",
    "runs/emrrg_iu": "emrrg_iu_cpu",
}


def write_tables(folder: Path) -> None:
    """Reports of another system and their references; the split of CheXpert Plus."""
    rows = {
        split: [{"id": f"CXR{i}_{split}", "report": "clear .", "image_path": ["a.png"]}]
        for i, split in enumerate(("train", "val", "test"))
    }
    (folder / "annotation.json").write_text(json.dumps(rows))
    (folder / "scans/reports.csv").write_text("image,study_id\ngood0.png,s0\n")
    (folder / "theirs.csv").write_text("id,prediction\nCXR2_test,the heart is large .\n")
    films = sorted((folder / "chexpert_plus").rglob("*.jpg"))
    names = [film.relative_to(folder / "chexpert_plus").as_posix() for film in films]
    splits = {
        split: [{"id": name.replace("/", "_"), "report": "x", "image_path": [name]}]
        for split, name in zip(rows, names, strict=True)
    }
    (folder / "chexpert_plus/annotation.json").write_text(json.dumps(splits))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with downloads, prepared phantoms and images under the names that pages use."""
    folder = tmp_path_factory.mktemp("workspace")
    downloads = {
        "downloads/iu_xray": make_iu,
        "mimic-cxr-jpg": make_mimic,
        "chexpert_plus": make_chexpert,
        "scans": make_folder,
    }
    for name, make in downloads.items():
        (folder / name).mkdir(parents=True)
        make(folder / name)
    shutil.copytree(folder / "mimic-cxr-jpg", folder / "mimic-cxr")
    write_tables(folder)
    drawn = draw_prepared(folder / "drawn", impressions=True, indications=0.7)
    for name in ("iu", "mimic", "mine"):
        shutil.copytree(drawn, folder / "data" / name)
    films = write_films(drawn, folder / "films")
    for film, name in zip(films, ("frontal.png", "lateral.png", "phantom.png"), strict=False):
        shutil.copy(film, folder / name)
    here = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(here)


def small(recipe: str) -> list[str]:
    """The options that make a recipe small."""
    changes = SMALL[recipe] if recipe == "demo" else (*SMALL_TRAINING, *SMALL[recipe])
    return [word for change in changes for word in ("--set", change)]


def stand_in(words: list[str]) -> None:
    """Train the runs that a command reads and no command has made."""
    read = [word for word, before in zip(words[1:], words, strict=False) if before != "--out"]
    if words[0] in ("eval", "generate") and "--predictions" not in words:
        read.append("runs/csr_lmca_iu_cpu")  # for the newest run
    for run in (word.rpartition("=")[2] for word in read):  # --set KEY=RUN too
        recipe = STAND_INS.get(run)
        if recipe and not Path(run).exists():
            without_pretraining = ["--set", "model.encoder.weights=none"] * ("emrrg" in recipe)
            result = radrep("train", recipe, "--out", run, *small(recipe), *without_pretraining)
            assert result.exit_code == 0, result.output


def adapt(words: list[str]) -> list[str]:
    """The same command, small, and with an output of its own where the workspace has one."""
    words = list(words)
    if words[0] == "prepare" and words[1] != "saliency" and "--dry-run" not in words:
        words += ["--out", f"prepared/{len(list(Path().glob('prepared/*')))}"]
    if "phantom" in words:
        words += ["--num-studies", "6"]
    if words[0] == "demo":
        words += ["--num-studies", "60", *small("demo")]
    if words[0] in ("train", "pretrain") and "--resume" not in words:
        words += small(words[1])
    of_labels = "runs/pretrain_labels_cpu" in words  # a discriminator writes no reports
    if words[0] == "eval" and "--no-meteor" not in words and not of_labels:
        words.append("--no-meteor")
    if "--heatmap" in words:
        Path(words[words.index("--heatmap") + 1]).unlink(missing_ok=True)
    return words


@pytest.mark.slow
@pytest.mark.usefixtures("shared_cache", "without_java")
@by_page
def test_every_command_runs(page: Path, workspace: Path) -> None:
    failed = []
    for words in commands(page):
        line = " ".join(words)
        if any(re.fullmatch(pattern, line) for pattern in NOT_RUN):
            continue
        stand_in(words[1:])
        result = radrep(*adapt(words[1:]))
        if words[0] != "radrep" or result.exit_code:
            failed.append(f"{line}\n{result.output}\n{result.exception!r}")
    assert not failed, "\n\n".join(failed)
    for code in blocks(page, "python"):
        exec(compile(code, page.name, "exec"), {})


def test_every_exception_is_needed() -> None:
    lines = [" ".join(words) for page in PAGES for words in commands(page)]
    for pattern in NOT_RUN:
        assert any(re.fullmatch(pattern, line) for line in lines), pattern


def test_small_settings_are_for_recipes_that_exist() -> None:
    assert set(SMALL) <= {name for name, _ in shipped_recipes()}
