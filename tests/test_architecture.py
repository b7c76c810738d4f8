"""Imports point up the map of docs/architecture.md, and hooks are registered in one place."""

from __future__ import annotations

import ast
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


def imported_parts(file: Path) -> set[str]:
    """The parts of this package that a file imports, at its head or inside functions."""
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
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
    holders = [f.name for f in ROOT.rglob("*.py") if "register_forward" in f.read_text()]
    assert holders == ["hooks.py"]
