"""pyproject.toml, constraints.txt, environment.yml and Makefile install the same things."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from workbench.errors import EXTRAS

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def constraints() -> dict[str, Version]:
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            found = re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line)
            assert found, f"not an exact version: {line!r}"
            pinned[canonicalize_name(found[1])] = Version(found[2])
    return pinned


def test_every_dependency_is_pinned_to_an_allowed_version() -> None:
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    requirements = [Requirement(line) for line in (*PROJECT["dependencies"], *extras)]
    pinned = {**constraints(), PROJECT["name"]: Version(PROJECT["version"])}  # extras name others of the project
    wrong = [str(each) for each in requirements if not each.specifier.contains(pinned[canonicalize_name(each.name)])]
    assert wrong == []


def test_pins_have_no_build_tag() -> None:
    assert [name for name, version in constraints().items() if version.local] == []
    assert constraints()["torch"] == Version("2.13.0")


def test_conda_installs_the_same_project() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, inner = environment["dependencies"]
    assert environment["name"] == PROJECT["name"]
    assert SpecifierSet(python.removeprefix("python")) == SpecifierSet(PROJECT["requires-python"])
    assert pip == "pip>=23"
    # Every dependency comes from pyproject.toml through `-e .`.
    constraint, project = inner["pip"]
    assert constraint == "-c constraints.txt"
    extras = re.fullmatch(r"-e \.\[([\w,]+)\]", project)
    assert extras
    assert set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])
    assert "all" in extras[1].split(",")


def test_conda_installs_what_make_installs() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    installs = re.findall(r'pip install --no-compile -c constraints.txt -e "\.\[([\w,]+)\]"', makefile)
    assert installs == ["all,test"]


def test_messages_name_the_extra_of_each_library() -> None:
    """`EXTRAS` in workbench/errors.py, by modules, is `optional-dependencies` in pyproject.toml, by distributions."""
    distributions = packages_distributions()
    for extra, modules in EXTRAS.items():
        required = {canonicalize_name(Requirement(line).name) for line in PROJECT["optional-dependencies"][extra]}
        brought = {canonicalize_name(name) for module in modules for name in distributions[module]}
        assert required - {"card-workbench"} <= brought
