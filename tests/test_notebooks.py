"""The notebooks: the script is the source, its ipynb agrees with it, and neither carries outputs."""

import json

import pytest

NAMES = (
    "01_hear_the_model",
    "02_look_inside",
    "03_concept_atlas",
    "04_real_models",
    "05_steer_with_caa",
    "06_train_an_sae",
    "07_steer_with_features",
)


@pytest.mark.parametrize("name", NAMES)
def test_pair_agrees(root, name):
    import jupytext

    script = jupytext.read(root / "notebooks" / f"{name}.py")
    notebook = jupytext.read(root / "notebooks" / f"{name}.ipynb")
    assert [(c.cell_type, c.source) for c in script.cells] == [(c.cell_type, c.source) for c in notebook.cells], (
        "run `make notebooks`"
    )


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_stripped_and_claims_asserted(root, name):
    notebook = json.loads((root / "notebooks" / f"{name}.ipynb").read_text())
    code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    assert all(not c["outputs"] and c["execution_count"] is None for c in code)
    text = "".join("".join(c["source"]) for c in notebook["cells"])
    assert "will learn" in text or "and learn" in text
    assert "<details><summary>Solution</summary>" in text and "assert " in text and "__version__" in text and "%%time" not in text


def test_every_notebook_is_here(root):
    assert sorted(p.stem for p in (root / "notebooks").glob("*.ipynb")) == sorted(NAMES)
