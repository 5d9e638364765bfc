"""The notebooks with their exercises answered, for nbmake: after each check the solution, and answers that are wrong, checked alike.

python tests/helpers/answered.py FOLDER
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import nbformat

NOTEBOOKS = Path(__file__).resolve().parent.parent.parent / "notebooks"
# Answers that learners give: those that are wrong for a reason, and one that is no answer at all.
WRONG = {
    "00_start_here": [["2", "5", "40", "'layer'"]],
    "01_hear_the_model": [["2", "16", "3", "'many'"]],
    "02_look_inside": [["5", "6", "10", "77", "[5, 6]"]],
    "02b_words_on_the_time_line": [["(0, 5)", "(1, 1)", "(5, 3)", "'reggae'"]],
    "03_concept_atlas": [["(1, 0)", "(2, 1)", "(0, 2)", "0"], ["pairs", "atlas", "'piano'"]],
    "03b_from_layer_to_head": [["'9'", "'9.3'", "'3.0'", "10.0", "'many'"]],
    "04_real_models": [["6", "12", "99", "'tempo'"]],
    "05_steer_with_caa": [["set()", "{0}", "{1, 2}", "7"]],
    "06_train_an_sae": [["'first'", "3"]],
    "07_steer_with_features": [["0", "150", "3", "happy"]],
    "08_your_own_music": [["'saxophone'", "0"]],
    "09_known_answers": [["'sufficient'", "'all'", "'both'", "2"]],
}
SOLUTION = re.compile(r"<details><summary>Solution</summary>\s*```python\n(.*?)```\s*</details>", re.DOTALL)
# A verdict begins with one of these; each kind of wrong answer has a reason of its own.
TRIED = """assert repr(_first).startswith("Your turn."), _first
assert repr(_right).startswith("Right."), _right
assert all(repr(each).startswith("Not yet.") and len(repr(each)) > 40 for each in _wrong), _wrong
assert len(_wrong) < 2 or len({repr(each) for each in _wrong}) >= 2, _wrong"""


def tagged(notebook: Any, tag: str) -> list[int]:
    """The numbers of the cells with a tag."""
    return [i for i, cell in enumerate(notebook.cells) if tag in cell.metadata.get("tags", [])]


def answered(notebook: Any, wrong: list[list[str]]) -> Any:
    """A notebook with cells after each check that try its solution and wrong answers; what a reader runs is unchanged before them."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    solutions, answers, tries = iter(SOLUTION.findall(text)), tagged(notebook, "answer"), iter(wrong)
    cells = []
    for number, cell in enumerate(notebook.cells):
        cells.append(cell)
        if number - 1 not in answers:
            continue
        variable = re.match(r"(\w+) = None", notebook.cells[number - 1].source)[1]  # type: ignore[index]
        before, verdict = _parts(cell.source)
        # only what reads the answer is run again
        again = "\n".join(part for part in before if variable in _names(part))
        sources = [
            f"_first, _wrong = {verdict}, []",
            f"{next(solutions)}\n{again}\n_right = {verdict}",
            *(f"{variable} = {each}\n{again}\n_wrong.append({verdict})" for each in next(tries)),
            f"{TRIED}\n{variable} = None",
        ]
        cells += map(nbformat.v4.new_code_cell, sources)
    notebook.cells = cells
    return notebook


def _parts(source: str) -> tuple[list[str], str]:
    """The statements of a cell, and its last expression, which it shows."""
    *before, last = ast.parse(source).body
    assert isinstance(last, ast.Expr), source
    return [ast.get_source_segment(source, each) or "" for each in before], ast.get_source_segment(source, last) or ""


def _names(source: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.ipynb"):
        old.unlink()
    for file in sorted(NOTEBOOKS.glob("*.ipynb")):
        nbformat.write(answered(nbformat.read(file, as_version=4), WRONG[file.stem]), folder / file.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
