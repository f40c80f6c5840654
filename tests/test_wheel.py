"""The wheel, installed without a clone: it finds its pages, notebooks, facts and samples.

Libraries come from the tests' own environment; the workbench itself comes from the wheel.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.slow
NOTEBOOKS = sorted(path.name for path in (Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
ASK = "import sys, workbench; print(sys.executable, workbench.__file__)"


@dataclass(frozen=True)
class Place:
    """A virtual environment with the wheel, and an empty folder to work in."""

    python: Path
    site: Path  # site-packages with the wheel
    folder: Path

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "JUPYTER"))}
        return {**kept, "HOME": str(self.folder / "home"), "PYTHONDONTWRITEBYTECODE": "1", **more}

    def python_says(self, code: str) -> str:
        done = subprocess.run(
            [self.python, "-W", "ignore", "-c", code], cwd=self.folder, env=self.environment(), capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def workbench(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python.with_name("workbench"), *words], cwd=self.folder, env=self.environment(), capture_output=True,
            text=True, check=False,
        )  # fmt: skip

    @contextmanager
    def serving(self, address: str, *words: str, **more: str) -> Iterator[Path]:
        """Start a server and wait until it answers at `address`; yields the file of its output."""
        log = self.folder / "log.txt"
        with log.open("w") as file:
            server = subprocess.Popen(
                [self.python.with_name("workbench"), *words], cwd=self.folder, env=self.environment(**more),
                stdout=file, stderr=file,
            )  # fmt: skip
            try:
                until = time.monotonic() + 90
                while time.monotonic() < until and server.poll() is None and not _answers(address):
                    time.sleep(0.2)
                assert server.poll() is None, log.read_text()
                yield log
            finally:
                server.terminate()
                server.wait(timeout=30)


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pip(*words: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, root)
    (built,) = folder.glob("*.whl")
    return built


def environment_with(wheel: Path, folder: Path) -> Place:
    """A virtual environment with nothing but the wheel."""
    made = folder / "env"
    venv.create(made, with_pip=False, symlinks=True)
    pip("--python", made / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    (site,) = made.glob("lib/python*/site-packages")
    (folder / "work").mkdir()
    return Place(made / "bin" / "python", site, folder / "work")


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The wheel and what it requires without an extra."""
    place = environment_with(wheel, tmp_path_factory.mktemp("light"))
    (found,) = metadata.distributions(path=[str(place.site)], name="card-workbench")
    waiting, names = list(found.requires or ()), set()
    while waiting:
        needed = Requirement(waiting.pop())
        if (needed.marker is not None and not needed.marker.evaluate({"extra": ""})) or needed.name in names:
            continue
        names.add(needed.name)
        library = metadata.distribution(needed.name)
        waiting += library.requires or ()
        for file in library.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                (place.site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.locate(), place.site / file)
    return place


@pytest.fixture(scope="module")
def place(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The wheel and the libraries of the tests."""
    place = environment_with(wheel, tmp_path_factory.mktemp("elsewhere"))
    # A line of a .pth file adds a folder without the .pth files in it: not the clone that is installed there.
    (place.site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    for name in ("share", "etc"):  # JupyterLab's pages and the kernel that ipykernel brings
        there = Path(sys.prefix) / name
        if there.is_dir() and not (place.python.parents[1] / name).exists():
            (place.python.parents[1] / name).symlink_to(there)
    return place


def test_reading_auditing_and_the_recipe_need_little(light: Place) -> None:
    size = sum(path.stat().st_size for path in light.site.rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert size < 40_000_000
    for words, shown in {
        ("show", "porsche-mxbai"): "Sentence Transformers 3.3.1",
        ("audit", "porsche-mxbai", "--format", "sarif"): '"ruleId": "best-not-kept"',
        ("recipe", "porsche-mxbai", "--corrected"): "load_best_model_at_end: true",
        ("explain", "best-not-kept"): "## best-not-kept",
        ("propose", "porsche-mxbai"): "+- **Adapter:** DoRA",
    }.items():
        done = light.workbench(*words)
        assert (done.returncode, shown in done.stdout) == (0, True), done.stderr


def test_what_needs_more_names_the_extra(light: Place) -> None:
    for words, extra in {
        ("train", "porsche-minilm"): "train", ("reproduce", "porsche-minilm"): "train", ("doctor",): "train",
        ("dashboard",): "dashboard", ("lab",): "notebooks", ("audit", "acme/model"): "hub",
        ("propose", "porsche-mxbai", "--model", "acme/model", "--discussion", "--yes"): "hub",
    }.items():  # fmt: skip
        done = light.workbench(*words)
        assert done.returncode == 2
        assert done.stderr.strip().endswith(f'install it: pip install "card-workbench[{extra}]".'), done.stderr
    code = "import workbench as wb\nprint(len(wb.audit('porsche-mxbai')))\n"
    code += "try: wb.train\nexcept ImportError as error: print(error)"
    counted, refused = light.python_says(code).splitlines()
    assert int(counted) == 11
    assert refused.endswith('pip install "card-workbench[train]"')


def test_the_package_is_the_wheels_and_carries_all_that_is_shipped(place: Place, root: Path) -> None:
    executable, file = place.python_says(ASK).split()
    assert Path(executable) == place.python
    assert Path(file) == place.site / "workbench" / "__init__.py"
    assert not Path(file).is_relative_to(root)
    tracked = subprocess.run(
        ["git", "ls-files", "data", "dashboard", "notebooks"], cwd=root, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    wanted = {name for name in tracked if not name.startswith("data/pictures/")}
    inside = place.site / "workbench" / "_shipped"
    carried = {path.relative_to(inside).as_posix() for path in inside.rglob("*") if path.is_file()}
    assert {name for name in wanted if "__pycache__" not in name} - carried == set()
    assert len(wanted) > 50
    assert "shipped" not in {path.name for path in place.site.iterdir()}  # nothing of it is beside the package
    assert {"data", "dashboard", "notebooks"} & {path.name for path in place.site.iterdir()} == set()


def test_a_card_is_reproduced(place: Place) -> None:
    done = place.workbench("reproduce", "porsche-mxbai", "--base", "bundled:static", "--max-steps", "2")
    assert done.returncode == 0, done.stderr
    (run,) = (path for path in (place.folder / "runs").iterdir() if (path / "run.json").is_file())
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    assert "not comparable" in done.stdout
    assert (run / "report.html").is_file()


def test_the_dashboard_finds_its_pages(place: Place) -> None:
    printed = place.python_says(
        "import sys; from streamlit.testing.v1 import AppTest; from workbench.resources import shipped_path\n"
        "sys.argv = ['app.py', 'runs']\n"
        "app = AppTest.from_file(str(shipped_path('dashboard/app.py')), default_timeout=120).run()\n"
        "print([error.value for error in app.exception])"
    )
    assert printed.splitlines()[-1] == "[]"


def test_the_notebooks_are_copied_and_run_by_the_right_python(place: Place) -> None:
    """An existing notebook is kept; a kernel of the same name in the user's home is not used."""
    mine = place.folder / "notebooks" / NOTEBOOKS[0]
    mine.parent.mkdir()
    mine.write_text("mine")
    other = place.folder / "home" / ".local" / "share" / "jupyter" / "kernels" / "python3"
    other.mkdir(parents=True)
    wrong = {"argv": ["/bin/false", "{connection_file}"], "display_name": "wrong", "language": "python"}
    (other / "kernel.json").write_text(json.dumps(wrong))
    port = _free_port()
    api, runtime = f"http://127.0.0.1:{port}/api", place.folder / "runtime"
    words = ("lab", "--no-browser", "--port", str(port))
    with place.serving(api, *words, JUPYTER_TOKEN="known", JUPYTER_RUNTIME_DIR=str(runtime)) as log:
        assert mine.read_text() == "mine"
        listed = _ask(f"{api}/contents")["content"]
        assert sorted(each["name"] for each in listed if each["type"] == "notebook") == NOTEBOOKS
        assert f"{len(NOTEBOOKS) - 1} notebooks copied to notebooks; kept: {NOTEBOOKS[0]}" in log.read_text()
        kernel = _ask(f"{api}/kernels", {"name": "python3"})["id"]
        executable, file = _run_in(runtime / f"kernel-{kernel}.json", ASK).split()
        assert Path(executable) == place.python
        assert Path(file).is_relative_to(place.site)


def _ask(address: str, posted: dict[str, Any] | None = None) -> Any:
    data = None if posted is None else json.dumps(posted).encode()
    request = urllib.request.Request(address, data=data, headers={"Authorization": "token known"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def _run_in(connection: Path, code: str) -> str:
    """What code prints in a running kernel."""
    from jupyter_client.blocking import BlockingKernelClient

    until = time.monotonic() + 30
    while not connection.is_file() and time.monotonic() < until:
        time.sleep(0.1)
    client = BlockingKernelClient(connection_file=str(connection))
    client.load_connection_file()
    client.start_channels()
    printed: list[str] = []
    try:
        client.wait_for_ready(timeout=60)
        client.execute_interactive(
            code, timeout=60, output_hook=lambda said: printed.append(said["content"].get("text", ""))
        )
    finally:
        client.stop_channels()
    return "".join(printed).strip()
