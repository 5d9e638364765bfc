"""The notebooks: script and ipynb agree, no outputs, one style; their exercises take the solution, and tell a wrong answer why."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import jupytext
import nbformat
import pytest
from helpers.answered import SOLUTION, WRONG, answered, main, tagged

NAMES = (
    "00_start_here",
    "01_hear_the_model",
    "02_look_inside",
    "02b_words_on_the_time_line",
    "03_concept_atlas",
    "03b_from_layer_to_head",
    "04_real_models",
    "05_steer_with_caa",
    "06_train_an_sae",
    "07_steer_with_features",
    "08_your_own_music",
    "09_known_answers",
)


def read(root, name):
    return jupytext.read(root / "notebooks" / f"{name}.ipynb")


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
    number = name.split("_")[0].removeprefix("0")
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


def test_make_test_runs_notebooks_and_tests_with_nbmake(root):
    """The rule of the Makefile, as make would run it."""
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    rule = subprocess.run(["make", "-n", "-o", "browser", "-o", "setup", "test"], cwd=root, capture_output=True, text=True).stdout
    prepared, ran = (line for line in rule.splitlines() if "python" in line)
    assert prepared.endswith("tests/helpers/answered.py runs/notebooks")
    assert "--nbmake" in ran and ran.endswith(" runs/notebooks tests"), "nbmake is given the notebooks, and pytest all tests"


def test_what_nbmake_runs_holds_every_cell_of_the_notebooks(root, tmp_path):
    main(tmp_path)
    assert sorted(file.stem for file in tmp_path.iterdir()) == sorted(NAMES)
    for name in NAMES:
        cells = [cell.source for cell in nbformat.read(tmp_path / f"{name}.ipynb", as_version=4).cells]
        there = iter(cells)
        assert all(cell.source in there for cell in read(root, name).cells), "each cell, in order"
        assert len(cells) >= len(read(root, name).cells) + 4 * len(WRONG[name])


def test_answers_are_tried_after_each_check(root, tmp_path):
    """nbmake runs the notebooks as they are, with cells added: what is right, wrong or missing is told apart."""
    notebook = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_markdown_cell("<details><summary>Solution</summary>\n\n```python\nx = 2\n```\n</details>"),
        nbformat.v4.new_code_cell("x = None", metadata={"tags": ["answer"]}),
        nbformat.v4.new_code_cell("from audioscope.course import check\nslow = 1\ny = x\ncheck(y, lambda v: v == 2, well='w', otherwise='o' * 40)", metadata={"tags": ["check"]}),
    ])  # fmt: skip
    before = [cell.source for cell in notebook.cells]
    made = answered(notebook, [["3"]])
    assert [cell.source for cell in made.cells[:3]] == before and len(made.cells) == 7
    added = [cell.source for cell in made.cells[3:]]
    assert not any("slow" in source for source in added) and all("y = x" in source for source in added[1:3])
    space: dict = {}
    for source in [cell.source for cell in made.cells if cell.cell_type == "code"]:
        exec(source, space)
    for wrong in ("x = 2", "x = None"):  # a "wrong" answer that is right, or none
        with pytest.raises(AssertionError):
            for source in [*before[1:], added[0], added[1], added[2].replace("x = 3", wrong), added[3]]:
                exec(source, space)
