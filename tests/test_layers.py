"""Imports point one way: from what is built to what it is built of."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("olmo_inject", "launch", "analysis")


def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imports(module: str, file: Path, known: dict[str, Path]) -> set[str]:
    """The project's modules that a module imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in names}
    return found & known.keys() - {module}


def unit(module: str) -> str:
    """The folder or file directly below a package, which is what has a place in the order."""
    return ".".join(module.split(".")[:2])


@cache
def graph() -> dict[str, set[str]]:
    known = modules()
    edges: dict[str, set[str]] = {}
    for module, file in known.items():
        edges.setdefault(unit(module), set()).update(unit(other) for other in imports(module, file, known))
    return {name: others - {name} for name, others in edges.items()}


@pytest.mark.slow
def test_no_folder_imports_what_is_built_on_it() -> None:
    assert circle(graph()) == []


def circle(edges: dict[str, set[str]]) -> list[str]:
    """Folders that import each other in a circle; none if imports point one way."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_a_circle_is_found() -> None:
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}


def test_the_package_imports_launch_and_analysis_only_in_commands() -> None:
    upward = {
        name: others
        for name, others in graph().items()
        if name.startswith("olmo_inject") and name != "olmo_inject.commands"
        if any(other.startswith(("launch", "analysis")) for other in others)
    }
    assert upward == {}


def test_utils_import_nothing_of_injection() -> None:
    assert graph()["olmo_inject.utils"] == {"olmo_inject.errors", "olmo_inject.visible_text"}


def test_the_theory_stands_alone() -> None:
    assert {other for other in graph()["olmo_inject.theory"] if other.startswith(("launch", "analysis"))} == set()
    built_on = {"tasks", "injection", "config", "corpus", "data", "runs", "training", "scan", "inspect", "audit"}
    assert graph()["olmo_inject.theory"] & {f"olmo_inject.{name}" for name in built_on} == set()
