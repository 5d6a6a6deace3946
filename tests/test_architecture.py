"""The house holds: imports go one way, and nothing heavy comes in by the front door."""

import ast
import json
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "radrep"
ROOMS = sorted({path.parent for path in PACKAGE.rglob("*.py")})


def modules_after(statement: str) -> set[str]:
    """Top-level names of what is loaded once a fresh Python has run the statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in json.loads(done.stdout)}


def test_imports_go_one_way():
    linter = Path(sys.executable).with_name("lint-imports")
    assert linter.is_file(), "import-linter is missing: pip install -e '.[dev]'"
    done = subprocess.run(
        [linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


def test_importing_radrep_imports_no_torch():
    assert not modules_after("import radrep") & {"torch", "numba", "numpy", "pydantic", "typer"}


@pytest.mark.parametrize("module", ["radrep.cli", "radrep.progress", "radrep.recipe.load"])
def test_what_the_terminal_needs_at_once_imports_no_torch(module):
    assert not modules_after(f"import {module}") & {"torch", "numba", "timm", "accelerate"}


def _classes(*files: Path) -> set[str]:
    """Names of the classes of these files, but not of the protocols among them."""
    return {
        node.name
        for file in files
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef) and "Protocol" not in map(ast.unparse, node.bases)
    }


def _model_sections(room: Path) -> dict[str, str]:
    """Classes of the recipe's model sections to the names that recipes call them by."""
    found = {}
    for file in room.glob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and "ModelSection" in " ".join(
                map(ast.unparse, node.bases)
            ):
                name = re.search(r"name: Literal\['(\w+)'\]", ast.unparse(node))
                assert name, node.name
                found[node.name] = name[1]
    return found


def _last_name(node: ast.expr) -> str:
    return ast.unparse(node).rpartition(".")[2]


def questions_of_class(source: str, models: set[str], names: set[str]) -> list[str]:
    """Where code asks which class, or which name, a model or its section has."""
    found = []
    for node in ast.walk(ast.parse(source)):
        asked: list[ast.expr] = []
        if isinstance(node, ast.Call) and _last_name(node.func) in ("isinstance", "issubclass"):
            asked = [n for n in ast.walk(node.args[1]) if isinstance(n, ast.Name | ast.Attribute)]
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(isinstance(s, ast.Attribute) and s.attr == "name" for s in sides):
                asked = [n for n in ast.walk(node) if isinstance(n, ast.Constant)]
            if any(isinstance(s, ast.Call) and _last_name(s.func) == "type" for s in sides):
                asked += [n for s in sides for n in ast.walk(s) if isinstance(n, ast.expr)]
        elif isinstance(node, ast.MatchClass):
            asked = [node.cls]
        if any(
            n.value in names if isinstance(n, ast.Constant) else _last_name(n) in models
            for n in asked
        ):
            found.append(ast.unparse(node))
    return found


def test_no_room_asks_which_class_a_model_has() -> None:
    package = ROOT / "radrep"
    sections = _model_sections(package / "recipe")
    models = _classes(*(package / "models").glob("*.py")) | sections.keys()
    names = set(sections.values())
    assert {"CsrLmca", "Emrrg", "AutoregressivePretraining", "Contrastive"} <= models
    assert {"csr_lmca", "discriminator"} <= names
    for question in (
        "isinstance(model, CsrLmca)",
        "isinstance(model, Emrrg | Discriminator)",
        "isinstance(recipe.model, (schema.Emrrg, schema.Contrastive))",
        "type(model) is Emrrg",
        "type(recipe.model) in (schema.Emrrg,)",
        "recipe.model.name == 'emrrg'",
        "section.name in ('emrrg', 'csr_lmca')",
        "match model:\n case Emrrg(): pass",
    ):
        assert questions_of_class(question, models, names), question
    assert not questions_of_class("isinstance(model, ReportModel)", models, names)
    for file in package.rglob("*.py"):
        if file.name == "build.py" or file.parent.name == "recipe":
            continue
        assert questions_of_class(file.read_text(), models, names) == [], file


def count_lines(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


def test_no_import_circle_not_even_for_type_checking():
    graph = grimp.build_graph("radrep", exclude_type_checking_imports=False)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert len(imports) > 100
    TopologicalSorter(imports).prepare()  # raises CycleError and names the modules


def test_rooms_and_files_stay_small():
    rooms = {str(room.relative_to(ROOT)): len(list(room.glob("*.py"))) for room in ROOMS}
    assert {name: count for name, count in rooms.items() if count > 14} == {}
    files = {str(path.relative_to(ROOT)): count_lines(path) for path in PACKAGE.rglob("*.py")}
    assert {name: lines for name, lines in files.items() if lines > 400} == {}


def test_tests_mirror_the_package():
    packages = {room.relative_to(PACKAGE) for room in ROOMS}
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*")}
    assert folders - packages == set()
