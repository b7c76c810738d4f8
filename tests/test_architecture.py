"""Imports point up the map of docs/architecture.md, and hooks are registered in one place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import safety_neurons

ROOT = Path(safety_neurons.__file__).parent
MAP = ROOT.parent.parent / "docs" / "architecture.md"


def order() -> list[str]:
    """The names of the map's lines, from top to bottom."""
    block = MAP.read_text().split("```")[1]
    return [line.split()[0].rstrip("/").removesuffix(".py") for line in block.splitlines()[2:]]


def part_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below, except those under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from running(child)


def imported_parts(file: Path) -> set[str]:
    """The parts that a file imports, at its head or inside functions; not for types alone."""
    names = []
    for node in running(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    inside = [name.split(".") for name in names if name.startswith("safety_neurons.")]
    return {parts[1] for parts in inside}


def test_the_map_lists_every_part():
    parts = {part_of(f) for f in ROOT.rglob("*.py")} - {"__init__", "__main__"}
    assert parts == set(order())


def test_imports_point_up_the_map():
    places = {name: i for i, name in enumerate(order())}
    wrong = [
        f"{file.relative_to(ROOT)} imports {part}"
        for file in ROOT.rglob("*.py")
        if part_of(file) not in ("__init__", "__main__")
        for part in imported_parts(file) - {part_of(file)}
        if places[part] > places[part_of(file)]
    ]
    assert not wrong


def test_only_one_module_registers_hooks():
    files = [f for f in ROOT.rglob("*.py") if "register_forward" in f.read_text()]
    assert [str(f.relative_to(ROOT)) for f in files] == ["engine/hooks.py"]
