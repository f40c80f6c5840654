"""The house stands as drawn: who imports whom, who owns a heavy library, how long a file may be.

Modules that do not exist yet are no error; one that exists and is not drawn here is.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "workbench"

ORDER = [
    "errors", "shipped", "card",
    "reading.text", "reading.structure", "reading.values", "reading.cardjson", "reading.header", "reading.sheet",
    "reading.training_data", "reading.sections", "reading",
    "audit.epochs", "audit.bands", "audit.identities", "audit.clues", "audit.findings", "audit.rules_loss",
    "audit.rules_training", "audit.rules_data", "audit.rules_evaluation", "audit.rules_model",
    "audit.reproducibility", "audit",
    "recipe.plain_yaml", "recipe.parts", "recipe.draft", "recipe.sources", "recipe.derive", "recipe",
    "rows", "checks", "pairs", "scored", "qrels", "collection", "standins", "adapters", "encoder", "energy", "losses",
    "metrics", "search", "run", "evaluate", "intervals", "items", "evaluators", "tasks", "sets",
    "cost", "processes", "journal", "fast.linear", "fast.dropout", "fast.attention", "fast.packing",
    "fast.tables", "fast.tokens", "fast.encoding", "fast.engine", "fast", "fit", "prepare", "projection", "train",
    "hindrances", "compare", "slices", "exports", "curves", "movements", "seeds", "look", "smoothing", "figures",
    "figures_points", "figures_slices",
    "report.svg", "report.values", "report.queries", "report.maps", "report.summary", "report.several",
    "report.drawings", "report.markdown", "report.page", "report.site", "report.pdf", "report.modelcard",
    "report.notebook", "report", "reproduce", "browse", "scene", "closeup", "background", "widgets.page",
    "widgets.table", "widgets.fit", "widgets.audited", "widgets.queries", "widgets.maps", "widgets.live",
    "widgets.waiting", "widgets", "doctor",
    "terminal", "cli.words", "cli.cards", "cli.results", "cli.training", "cli.places", "cli", "cli.__main__",
]  # fmt: skip
"""A module imports only from those before it."""

TORCH = {
    "standins", "adapters", "encoder", "losses", "energy", "search", "processes", "journal", "fit", "fast.linear",
    "fast.dropout", "fast.attention", "fast.packing", "fast.tables", "fast.tokens", "fast.encoding",
    "fast.engine", "fast", "prepare", "train", "slices", "report.modelcard",
}  # fmt: skip
OWNERS = {
    "torch": TORCH,
    "sentence_transformers": TORCH,
    "transformers": TORCH,
    "peft": TORCH,
    "accelerate": TORCH,
    "umap": {"projection"},
    "pynndescent": {"projection"},
    "plotly": {"figures", "figures_points", "figures_slices", "widgets.live", "widgets.maps"},
    "jinja2": {"report.page"},
    "ipywidgets": {"widgets", "widgets.live", "widgets.queries", "widgets.maps"},
    "anywidget": {"widgets.table", "widgets.fit"},
    "IPython": {"widgets", "widgets.page", "widgets.live", "widgets.queries", "widgets.maps", "widgets.waiting"},
    "typer": {"cli", "cli.words", "cli.cards", "cli.training", "cli.results", "cli.places"},
    "click": {"cli"},
    "rich": {"cli.cards", "cli.training", "cli.results", "cli.places", "terminal"},
    "streamlit": set(),
    "matplotlib": set(),
    "seaborn": set(),
}
HEAVY = {
    "torch", "sentence_transformers", "transformers", "peft", "accelerate", "datasets", "pandas", "pyarrow", "plotly",
    "umap", "jinja2", "scipy", "sklearn", "numba", "streamlit", "ipywidgets", "anywidget", "IPython", "numpy",
}  # fmt: skip
NUMPY_AT_TOP = {"metrics", "search", "compare", "intervals"}
LOADED_WITH_CARE = {
    "fast.linear", "fast.dropout", "fast.attention", "fast.packing", "fast.tables", "fast.tokens",
    "fast.encoding", "fast.engine", "fast", "energy", "losses", "encoder", "fit", "journal", "projection", "figures",
    "widgets.table", "widgets.fit",
}  # fmt: skip
LIGHT = [name for name in ORDER if name not in LOADED_WITH_CARE]
"""No heavy library at the top of these, so that commands that need none start at once."""

PUBLIC = {
    "Audit", "Card", "Collection", "Comparison", "Evaluation", "Finding", "Recipe", "Run",
    "BaseError", "CardError", "DataError", "RecipeError", "RunError", "TrainingError", "WorkbenchError",
    "audit", "compare", "evaluate", "explore", "findings", "finished", "list_runs", "live", "load_collection",
    "load_recipe", "map", "open_run", "parse_card", "read_card", "recipe", "register_loss", "report", "reproduce",
    "resume", "shipped_cards", "start", "train", "wait",
}  # fmt: skip
"""What `import workbench as wb` offers. A new name is added here on purpose."""

NEVER = {"utils", "util", "common", "core", "base", "helpers", "types", "misc"}
LONGEST_FILE = 600
LONGER = {"figures": 800}  # one short function per drawing
LONGEST_FUNCTION = 80


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    """Dotted name below the package: "card", "reading.text"; a package's own file has the package's name."""
    name = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
    return name.removesuffix(".__init__")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(node: ast.AST) -> Iterator[str]:
    """Full names of the modules that an import statement names; `from workbench.audit import clues` gives that one."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        if node.level:
            pytest.fail(f"line {node.lineno}: relative import; say `from workbench.…`")
        if node.module and top(node.module) == "workbench":
            inside = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            yield from (full if is_module(full) else str(node.module) for full in inside.values())
        elif node.module:
            yield node.module


def is_module(full: str) -> bool:
    place = PACKAGE.parent.joinpath(*full.split("."))
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def all_imports(path: Path) -> set[str]:
    return {name for node in ast.walk(tree(path)) for name in imported(node)}


def top_imports(path: Path) -> set[str]:
    """What runs when the module is imported: not what stands in functions or under TYPE_CHECKING."""
    found: set[str] = set()

    def visit(nodes: list[ast.stmt]) -> None:
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                visit(node.orelse)
                continue
            found.update(imported(node))
            for inner in ("body", "orelse", "finalbody"):
                visit(getattr(node, inner, []))
            for handler in getattr(node, "handlers", []):
                visit(handler.body)

    visit(tree(path).body)
    return found


def top(name: str) -> str:
    return name.split(".")[0]


def ours(path: Path) -> set[str]:
    """The modules of the workbench that a file imports."""
    return {name.removeprefix("workbench.") for name in all_imports(path) if name.startswith("workbench.")}


def each_file() -> list[object]:
    return [pytest.param(path, id=module_name(path)) for path in files()]


def test_every_module_is_drawn() -> None:
    drawn = {*ORDER, "__init__", "__main__"}
    assert {module_name(path) for path in files()} - drawn == set()
    assert NEVER & {path.stem for path in files()} == set()


@pytest.mark.parametrize("path", each_file())
def test_imports_only_from_those_below(path: Path) -> None:
    name = module_name(path)
    if name in ("__init__", "__main__"):
        return
    below = set(ORDER[: ORDER.index(name)])
    assert ours(path) - below == set(), f"{name} may import only {sorted(below)}"


@pytest.mark.parametrize("path", each_file())
def test_heavy_libraries_have_owners(path: Path) -> None:
    name = module_name(path)
    strangers = {top(full) for full in all_imports(path) if name not in OWNERS.get(top(full), {name})}
    assert strangers == set(), f"owners: { {library: sorted(OWNERS[library]) for library in strangers} }"


@pytest.mark.parametrize("path", each_file())
def test_light_modules_import_heavy_libraries_where_they_use_them(path: Path) -> None:
    name = module_name(path)
    if name not in {*LIGHT, "__init__", "__main__"}:
        return
    allowed = {"numpy"} if name in NUMPY_AT_TOP else set()
    assert {top(full) for full in top_imports(path)} & HEAVY - allowed == set()


@pytest.mark.parametrize("path", each_file())
def test_nothing_imports_the_surfaces(path: Path) -> None:
    assert {top(full) for full in all_imports(path)} & {"dashboard", "notebooks", "tests", "data"} == set()


@pytest.mark.parametrize("path", each_file())
def test_no_catch_all_and_no_assert(path: Path) -> None:
    caught = [
        f"line {node.lineno}"
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.ExceptHandler) and _catches_all(node))
        or (isinstance(node, ast.Assert) and _checks(node))
    ]
    assert caught == []


def _checks(node: ast.Assert) -> bool:
    """Whether an assert does more than tell the type checker that something is there."""
    return not ast.unparse(node.test).endswith(" is not None")


def _catches_all(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException") for kind in kinds)


@pytest.mark.parametrize("path", each_file())
def test_files_and_functions_fit_the_eye(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGER.get(module_name(path), LONGEST_FILE)
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION
    }
    assert long == {}


def dashboard_files() -> list[Path]:
    return sorted((ROOT / "dashboard").rglob("*.py"))


def test_the_dashboard_uses_only_what_its_layout_needs() -> None:
    heavy = HEAVY - {"streamlit", "pandas"}
    found = {
        str(path.relative_to(ROOT)): sorted({top(name) for name in all_imports(path)} & heavy)
        for path in dashboard_files()
    }
    assert {name: libraries for name, libraries in found.items() if libraries} == {}


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_is_fast_and_pulls_nothing_heavy() -> None:
    # Half a second where pydantic, on which it stands, takes 0.07; the ratio says the same on a busy or slow machine.
    code = (
        "import sys, time; start = time.process_time(); import pydantic.main; one = time.process_time() - start; "
        "import workbench; seconds = time.process_time() - start; "
        "print(seconds / one, *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    best = float("inf")
    for _ in range(5):
        ratio, *modules = run_python(code).split()
        best = min(best, float(ratio))
        assert set(modules) & HEAVY == set()
        if best < 7:
            break
    assert best < 7


def test_modules_without_training_pull_no_heavy_library() -> None:
    there = {module_name(path) for path in files()}
    present = [name for name in LIGHT if name in there]
    code = (
        "import sys, importlib\n"
        f"for name in {present!r}: importlib.import_module('workbench.' + name)\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    assert set(run_python(code).split()) & (HEAVY - {"numpy"}) == set()


def test_public_names_are_those_written_here() -> None:
    import workbench

    names = getattr(workbench, "__all__", None)
    if names is None:
        pytest.skip("workbench/__init__.py names nothing yet")
    assert set(names) == PUBLIC
    assert [name for name in names if not hasattr(workbench, name)] == []
    assert set(names) <= set(dir(workbench))


def test_the_readme_has_one_line_per_file() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\W*(?:[\w-]+/)*([\w-]+\.py)\b`?\W+\w.*$", readme, re.MULTILINE)
    if not lines:
        pytest.skip("README.md has no file map yet")
    described = Counter(lines)
    wanted = Counter(path.name for path in (*files(), *dashboard_files()) if not path.name.startswith("__"))
    assert {name: described[name] for name in wanted} == dict(wanted)
    folders = ("workbench", "dashboard", "tests", "data")
    assert set(described) <= {path.name for folder in folders for path in (ROOT / folder).rglob("*.py")}
