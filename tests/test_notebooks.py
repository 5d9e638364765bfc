"""The notebooks: script and ipynb agree, no outputs, one style; their exercises take the solution, and tell a wrong answer why."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess

import jupytext
import nbformat
import pytest
from helpers.browsing import LIMIT
from helpers.slices import last_statement, needed
from nbclient import NotebookClient

NAMES = (
    "00_start_here",
    "01_hear_the_model",
    "02_look_inside",
    "03_concept_atlas",
    "04_real_models",
    "05_steer_with_caa",
    "06_train_an_sae",
    "07_steer_with_features",
    "08_your_own_music",
)
# Answers that learners give: those that are wrong for a reason, and one that is no answer at all.
WRONG = {
    "00_start_here": [["2", "5", "40", "'layer'"]],
    "01_hear_the_model": [["2", "16", "3", "'many'"]],
    "02_look_inside": [["3", "6", "10", "77", "[5, 6]"]],
    "03_concept_atlas": [["(2, 0)", "(2, 2)", "(0, 1)", "0"], ["pairs", "atlas", "'piano'"]],
    "04_real_models": [["6", "12", "99", "'tempo'"]],
    "05_steer_with_caa": [["set()", "{0}", "{1, 2}", "7"]],
    "06_train_an_sae": [["'first'", "3"]],
    "07_steer_with_features": [["0", "150", "3", "happy"]],
    "08_your_own_music": [["'saxophone'", "0"]],
}
SOLUTION = re.compile(r"<details><summary>Solution</summary>\s*```python\n(.*?)```\s*</details>", re.DOTALL)


def read(root, name):
    return jupytext.read(root / "notebooks" / f"{name}.ipynb")


def tagged(notebook, tag):
    return [i for i, cell in enumerate(notebook.cells) if tag in cell.metadata.get("tags", [])]


def test_every_notebook_is_here(root):
    assert sorted(p.stem for p in (root / "notebooks").glob("*.ipynb")) == sorted(NAMES) == sorted(WRONG)


@pytest.mark.parametrize("name", NAMES)
def test_pair_agrees(root, name):
    script = jupytext.read(root / "notebooks" / f"{name}.py")
    notebook = read(root, name)
    assert [(c.cell_type, c.source) for c in script.cells] == [(c.cell_type, c.source) for c in notebook.cells], (
        "run `make notebooks`"
    )


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_stripped_and_claims_asserted(root, name):
    notebook = json.loads((root / "notebooks" / f"{name}.ipynb").read_text())
    code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    assert all(not c["outputs"] and c["execution_count"] is None for c in code)
    text = "".join("".join(c["source"]) for c in notebook["cells"])
    assert "assert " in text and "__version__" in text and "%%time" not in text


@pytest.mark.parametrize("name", NAMES)
def test_one_style(root, name):
    """What you will hear and learn, minutes and what to know first; exercises with solutions; limits; what to read next, which exists."""
    notebook = read(root, name)
    number = str(int(name[:2]))
    first = notebook.cells[0].source
    assert first.startswith(f"# {number}. ") and ": " in first.splitlines()[0], "a title with a claim"
    assert re.search(r"\*\*You will (hear|see)\*\*", first) and "**You will learn**" in first
    assert re.search(r"\*\*Time\*\*: \d+ minutes", first) and "**Before this**: " in first
    row = next(
        line
        for line in (root / "docs" / "course.md").read_text().splitlines()
        if f"book/{name}.html" in line and line.startswith("|")
    )
    minutes, runs = re.search(r"\*\*Time\*\*: (\d+) minutes.*?it runs in (?:about )?([\d½]+|half)", first).groups()
    assert f"| {minutes} ({'½' if runs == 'half' else runs}) |" in row, "the course page and the notebook say the same minutes"
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[-2:] == ["Limits", "Read next"] and sum(h.startswith("Exercise") for h in headings) >= 1
    claims = [h for h in headings if not h.startswith("Exercise")][:-2]
    assert all(len(h.split()) >= 4 and not h.endswith("?") for h in claims), claims
    answers, checks = tagged(notebook, "answer"), tagged(notebook, "check")
    assert len(answers) == len(checks) == len(SOLUTION.findall(text)) == len(WRONG[name])
    assert all(check == answer + 1 for answer, check in zip(answers, checks, strict=True))
    assert all(notebook.cells[i].metadata["jupyter"]["source_hidden"] for i in checks), "a check is folded: it knows the answer"
    for target in re.findall(r"\]\((\S+?)\)", text):
        assert target.startswith("https://") or (root / "notebooks" / target).exists(), target


@pytest.mark.parametrize("failing", ["", "tests", "notebooks", "tests notebooks"])
def test_make_test_runs_the_notebooks_whatever_the_tests_say(root, tmp_path, failing):
    """The rule of the Makefile, with a Python that only notes what it is to run."""
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    fails = [f'case "$*" in *pytest*" {each}") exit 1;; esac' for each in failing.split()]
    python.write_text("\n".join(["#!/bin/sh", 'echo "$@" >> ran', *fails]))
    python.chmod(0o755)
    made = [*("pyproject.toml", "constraints.txt", "audioscope/fix_torchaudio.py"), ".venv/.ready"]
    (tmp_path / "audioscope").mkdir()
    for number, name in enumerate(made):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (number, number))
    done = subprocess.run(
        ["make", "-f", root / "Makefile", "-o", "browser", "test"], cwd=tmp_path, capture_output=True, text=True
    )
    ran = [line.rsplit(" ", 1)[-1] for line in (tmp_path / "ran").read_text().splitlines()]
    assert ran == ["tests", "notebooks"] and bool(done.returncode) == bool(failing)
    assert not failing or f"FAILED: {failing} ***" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_exercises_take_the_solution_and_tell_wrong_answers_why(root, name):
    """The notebook with its solutions filled in, run from a clean kernel; after each check the wrong answers, checked alike.

    Cells that no exercise needs are left out: nbmake runs the whole notebook.
    """
    notebook = read(root, name)
    solutions = iter(SOLUTION.findall("\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")))
    wrong = iter(WRONG[name])
    cells, asked = [], []
    for number, cell in enumerate(notebook.cells):
        if number in tagged(notebook, "answer"):
            variable = re.match(r"(\w+) = None", cell.source)[1]
            cells.append(nbformat.v4.new_code_cell(next(solutions)))
        elif number in tagged(notebook, "check"):
            tried = [(None, None), *((each, False) for each in ("None", *next(wrong)))]
            for answer, _ in tried:
                source = cell.source if answer is None else f"{variable} = {answer}\n{last_statement(cell.source, variable)}"
                asked.append((len(cells), answer))
                cells.append(nbformat.v4.new_code_cell(source))
        else:
            cells.append(cell)
    code = [(place, cell.source) for place, cell in enumerate(cells) if cell.cell_type == "code"]
    exercise = {place for place, _ in asked} | {place - 1 for place, answer in asked if answer is None}
    kept = needed([source for _, source in code], [i for i, (place, _) in enumerate(code) if place in exercise])
    keep = [code[number][0] for number in kept]
    assert exercise <= set(keep) and len(keep) < len(code)
    notebook.cells, asked = [cells[place] for place in keep], [(keep.index(place), answer) for place, answer in asked]
    limits = {
        "timeout": LIMIT,
        "startup_timeout": LIMIT,
        "iopub_timeout": LIMIT,
    }  # the last two are short enough to be met by chance
    NotebookClient(notebook, **limits, resources={"metadata": {"path": str(root / "notebooks")}}).execute()
    said = [(answer, notebook.cells[place].outputs[-1]["data"]["text/plain"]) for place, answer in asked]
    reasons = [text for answer, text in said if answer not in (None, "None")]
    assert all(text.startswith("Right.") for answer, text in said if answer is None), said
    assert all(text.startswith("Your turn.") for answer, text in said if answer == "None"), said
    assert all(text.startswith("Not yet.") and len(text) > 40 for text in reasons), said
    assert len(set(reasons)) >= 2 or len(reasons) < 2, "each kind of wrong answer has a reason of its own"


def test_a_slice_of_a_notebook_holds_what_its_end_needs():
    cells = [
        "import a\nb = a.c",
        "unused = b",
        "d = []",
        "d.append(b)",
        "def f():\n    return g",
        "g = 1",
        "assert d",
        "h = f(), d",
    ]
    assert needed(cells, [7]) == [0, 2, 3, 4, 5, 7], "d is appended to, and f calls for g"
    assert needed(cells, [6]) == [0, 2, 3, 6] and needed(cells, [1]) == [0, 1]
    assert last_statement("slow()\ncheck(x)", "x") == "check(x)" and last_statement("y = x\ncheck(y)", "x") == "y = x\ncheck(y)"
