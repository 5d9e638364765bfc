"""The cells of a notebook that others need: what is left out makes nothing that they read."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence


def _names(source: str) -> tuple[set[str], set[str]]:
    """The names that a cell sets or may change, and those that it reads."""
    tree = ast.parse(source)
    sets, reads = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (reads if isinstance(node.ctx, ast.Load) else sets).add(node.id)
        elif isinstance(node, ast.alias):
            sets.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            sets.add(node.name)
        elif isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            sets |= {name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)}
    for statement in tree.body:  # a bare call of a method, such as names.append(1), may change its object
        if (
            isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Call)
            and isinstance(statement.value.func, ast.Attribute)
        ):
            sets |= {name.id for name in ast.walk(statement.value.func) if isinstance(name, ast.Name)}
    return sets, reads


def needed(sources: Sequence[str], wanted: Iterable[int]) -> list[int]:
    """The numbers of the cells that the `wanted` ones need, and these themselves, in order."""
    cells = [_names(source) for source in sources]
    kept: set[int] = set()
    more = set(wanted)
    while more:  # until nothing is missing: a function may read what a later cell sets
        kept |= more
        read = set().union(*(cells[number][1] for number in kept))
        more = {number for number, (sets, _) in enumerate(cells[: max(kept)]) if sets & read} - kept
    return sorted(kept)


def last_statement(source: str, variable: str) -> str:
    """What is left to run of a cell when only `variable` changed: its last statement, or all if another one reads it."""
    *before, last = ast.parse(source).body
    reads = {node.id for statement in before for node in ast.walk(statement) if isinstance(node, ast.Name)}
    return source if variable in reads else ast.get_source_segment(source, last) or source
