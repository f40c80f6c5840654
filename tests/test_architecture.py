"""The order of the rooms, the owners of heavy libraries, the size budget, and the public names.

The picture is in README.md. Rooms import from the rooms listed before them.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "workbench"

BUDGET = {
    "__init__": 124,
    "errors": 155,
    "resources": 32,
    "cards": 4_091,
    "audit": 2_834,
    "recipe": 1_533,
    "run_forms": 193,
    "run": 541,
    "run_notes": 149,
    "data": 2_266,
    "models": 2_882,
    "evaluation": 6_010,
    "training": 3_844,
    "views": 4_286,
    "report": 1_697,
    "pipeline": 180,
    "notebook": 928,
    "cli": 1_521,
    "__main__": 6,
}
"""Rooms in import order, lowest first, with the most lines that each may have. Lower a budget when lines are deleted; a
change that raises one says why in its commit."""
ROOMS = list(BUDGET)

OWNERS = {
    "torch": {"models", "evaluation", "training", "report"},
    "sentence_transformers": {"models", "evaluation", "training", "report"},
    "transformers": {"models", "evaluation", "training", "report"},
    "peft": {"models"},
    "umap": {"evaluation"},
    "pynndescent": {"evaluation"},
    "plotly": {"views", "notebook"},
    "jinja2": {"report"},
    "nbconvert": {"report"},
    "ipywidgets": {"notebook"},
    "anywidget": {"notebook"},
    "IPython": {"notebook"},
    "typer": {"cli"},
    "rich": {"cli"},
    "streamlit": set(),
    "matplotlib": set(),
}
"""Which rooms may import a library at all."""
HEAVY = {
    "torch", "sentence_transformers", "transformers", "peft", "accelerate", "datasets", "pandas", "pyarrow", "plotly",
    "umap", "jinja2", "scipy", "sklearn", "numba", "streamlit", "ipywidgets", "anywidget", "IPython", "numpy",
}  # fmt: skip
LIGHT_CORE = ("cards", "audit", "recipe")
PUBLIC = {
    "Audit", "Card", "Collection", "Comparison", "Evaluation", "Finding", "Recipe", "Run",
    "BaseError", "CardError", "DataError", "RecipeError", "RunError", "TrainingError", "WorkbenchError",
    "audit", "compare", "evaluate", "explore", "findings", "finished", "list_runs", "live", "load_collection",
    "load_model", "load_recipe", "map", "open_run", "parse_card", "read_card", "recipe", "register_loss", "report",
    "reproduce", "resume", "shipped_cards", "start", "train", "verify", "wait",
}  # fmt: skip
FORBIDDEN_NAMES = {"utils", "util", "common", "core", "base_", "helpers", "types", "misc"}
LONGEST_FILE = 600
LONGEST_FUNCTION = 60
MOST_EXCEPTIONS = 4  # types that one `except` may name


def files(folder: Path = PACKAGE) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}, line {node.lineno}: relative import; write `from workbench.…`"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)  # which may be a module


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_top_level_has_the_rooms_and_nothing_else() -> None:
    assert {room_of(path) for path in files()} == set(ROOMS)
    assert FORBIDDEN_NAMES & {path.stem for path in files()} == set()


def test_rooms_import_downward_only() -> None:
    upward = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files()
        for name in imports(path)
        if name.startswith("workbench.") and path.parent != PACKAGE
        if ROOMS.index(name.split(".")[1]) > ROOMS.index(room_of(path))
    ]
    assert upward == []


def test_single_files_import_downward_only() -> None:
    upward = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in PACKAGE.glob("*.py")
        for name in imports(path)
        if name.startswith("workbench.") and path.stem != "__init__"
        if ROOMS.index(name.split(".")[1]) > ROOMS.index(path.stem)
    ]
    assert upward == []


def test_no_file_imports_itself_through_others() -> None:
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files() if path.stem[0] != "_"}
    graph = {name: {other for other in imports(path) if other in names} for name, path in names.items()}
    TopologicalSorter(graph).prepare()  # CycleError names the circle


def test_heavy_libraries_have_owners() -> None:
    strangers = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files()
        for name in imports(path)
        if room_of(path) not in OWNERS.get(name.split(".")[0], {room_of(path)})
    ]
    assert strangers == []


def test_the_light_core_loads_no_heavy_library() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for room in LIGHT_CORE
        for path in files(PACKAGE / room)
    ]
    code = f"import sys, importlib\nfor name in {modules!r}: importlib.import_module(name)\nprint(*sys.modules)"
    assert {name.split(".")[0] for name in run_python(code).split()} & HEAVY == set()


def test_import_workbench_loads_no_room() -> None:
    loaded = run_python("import sys, workbench; print(*sys.modules)").split()
    assert [name for name in loaded if name.startswith("workbench.")] == []
    assert {name.split(".")[0] for name in loaded} & {*HEAVY, "pydantic", "yaml", "typer"} == set()


def test_public_names() -> None:
    import workbench

    assert set(workbench.__all__) == PUBLIC
    assert [name for name in PUBLIC if not callable(getattr(workbench, name))] == []
    assert set(dir(workbench)) >= PUBLIC


def test_functions_stay_functions_when_a_room_of_the_same_name_is_imported() -> None:
    code = "import workbench as wb, workbench.audit.rules, workbench.recipe.schema, workbench.report.export\n"
    assert run_python(code + "print(*(type(f).__name__ for f in (wb.audit, wb.recipe, wb.report)))") == (
        "function function function"
    )


def test_rooms_keep_their_budget() -> None:
    used = dict.fromkeys(ROOMS, 0)
    for path in files():
        used[room_of(path)] += lines(path)
    assert {room: (size, BUDGET[room]) for room, size in used.items() if size > BUDGET[room]} == {}


def test_files_and_functions_are_short() -> None:
    long = [str(path.relative_to(ROOT)) for path in files() if lines(path) > LONGEST_FILE]
    long += [
        f"{path.relative_to(ROOT)}: {node.name}, {(node.end_lineno or 0) - node.lineno + 1} lines"
        for path in files()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert long == []


def test_no_broad_except_and_no_assert() -> None:
    found = [
        f"{path.relative_to(ROOT)}, line {node.lineno}"
        for path in files()
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.ExceptHandler) and _is_broad(node))
        or (isinstance(node, ast.Assert) and not ast.unparse(node.test).endswith(" is not None"))
    ]
    assert found == []


def _is_broad(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {ast.unparse(kind) for kind in kinds}
    return bool(names & {"Exception", "BaseException"}) or len(kinds) > MOST_EXCEPTIONS


def test_the_surfaces_only_lay_out() -> None:
    heavy = HEAVY - {"streamlit", "pandas"}
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files(ROOT / "dashboard")
        for name in imports(path)
        if name.split(".")[0] in heavy
    ]
    assert found == []
    assert [path for path in files() if {"dashboard", "tests"} & {name.split(".")[0] for name in imports(path)}] == []


def test_readme_names_every_room_and_only_files_that_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert [room for room in sorted(rooms) if not re.search(rf"^\W*{room}/ ", readme, re.MULTILINE)] == []
    named = set(re.findall(r"^\W*((?:[\w-]+/)*[\w-]+\.py)\b`?\W+\w.*$", readme, re.MULTILINE))
    there = {path.name for folder in ("workbench", "dashboard", "tests", "data") for path in files(ROOT / folder)}
    assert {Path(name).name for name in named} <= there
