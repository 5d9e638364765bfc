"""The house: imports run one way, doors open, names are found where they are promised, and what should be light is light."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import audioscope
from audioscope.views import DOORS, view

ROOT = Path(__file__).resolve().parents[1]


def test_imports_run_one_way():
    """Also those inside functions: the contracts are in pyproject.toml."""
    done = subprocess.run([Path(sys.executable).parent / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.mark.parametrize("name", DOORS)
def test_a_door_opens(name):
    """The attribute is there, and what opens the door is a method of that name."""
    assert callable(view(name))
    owner, _, method = name.partition(".")
    if method:
        homes = {
            "Model": "model",
            "AttentionMap": "attention",
            "Atlas": "atlas.atlas",
            "Screen": "atlas.screening",
            "SteeringSweep": "steer.results",
            "SteeringVector": "steer.vectors",
            "SAE": "sae.sae",
            "SAEEvaluation": "sae.evaluation",
        }
        assert callable(getattr(getattr(import_module(f"audioscope.{homes[owner]}"), owner), method))


def test_every_door_is_used_and_no_name_is_looked_up_elsewhere():
    texts = {file: file.read_text() for file in (ROOT / "audioscope").rglob("*.py")}
    for name in DOORS:
        assert sum(text.count(f'view("{name}")') for text in texts.values()) == 1, name
    loaders = {file.name for file, text in texts.items() if "import_module" in text}
    assert loaders == {"views.py"}, "modules are imported by name in one place only"


def stubs():
    """Every public name: (namespace, name, module that the stub says it is in)."""
    found = []
    for stub in (ROOT / "audioscope").rglob("__init__.pyi"):
        space = ".".join(stub.parent.relative_to(ROOT).parts)
        for node in ast.walk(ast.parse(stub.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                found += [(space, alias.name, f"{space}.{node.module}") for alias in node.names]
    return found


@pytest.mark.parametrize(("space", "name", "home"), stubs())
def test_public_names_are_there_documented_and_at_home(space, name, home):
    """A wrong home is noticed only when a name is first used. A function is not hidden by a module of its name."""
    value = getattr(import_module(space), name)
    if callable(value):
        assert value.__doc__ and value.__module__ == home
    files = {file.name for file in (ROOT / space.replace(".", "/")).iterdir()}  # case counts in imports, but not on every disk
    assert f"{name}.py" not in files


def test_the_top_holds_few_names_and_the_namespaces():
    spaces = {"atlas", "course", "datasets", "pages", "sae", "scoring", "steer", "tiny"}
    assert spaces < set(audioscope.__all__) and len(audioscope.__all__) - len(spaces) <= 34  # eleven of them edits
    for name in spaces:
        assert getattr(audioscope, name).__doc__
    with pytest.raises(AttributeError):
        getattr(audioscope, "no_such_name")  # noqa: B009


@pytest.mark.slow
@pytest.mark.parametrize(
    "code, absent",
    [
        ("import audioscope", ("torch", "numpy", "pandas")),
        ("from audioscope.pages.atlas import save_html", ("torch", "diffusers", "transformers", "nnsight", "torchaudio")),
    ],
)
def test_what_is_light_stays_light(code, absent):
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*[name for name in {absent!r} if name in sys.modules])"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == []


@pytest.mark.slow
def test_a_page_is_written_without_the_models():
    """Also with sound and its spectrograms: whoever reads an atlas needs no torch."""
    code = """
import sys, tempfile, pathlib
from audioscope.atlas.atlas import Atlas
from audioscope.store import data_folder
with tempfile.TemporaryDirectory() as folder:
    Atlas.load(data_folder() / "atlas").save_html(pathlib.Path(folder) / "atlas.html")
print(*[name for name in ("torch", "diffusers", "transformers", "nnsight") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_only_scorers_import_scorer_models_and_only_tracing_imports_nnsight():
    """Scorer models: CLAP, MuQ and musicnn."""
    allowed = {"nnsight": {"tracing.py"}, "muq": {"scorers.py"}, "ClapModel": {"scorers.py"}, "musicnn": {"scorers.py"}}
    for file in (ROOT / "audioscope").rglob("*.py"):
        named = {alias.name.split(".")[0] for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
                 for alias in node.names} | {node.module.split(".")[0] for node in ast.walk(ast.parse(file.read_text()))
                                             if isinstance(node, ast.ImportFrom) and node.module}  # fmt: skip
        for name, homes in allowed.items():
            assert name not in named or file.name in homes, f"{file} imports {name}"


@pytest.mark.parametrize("file", sorted((ROOT / "notebooks").glob("*.py")), ids=lambda file: file.stem)
def test_notebooks_import_the_public_names_only(file):
    """What a notebook needs, its reader needs: nothing deeper than the namespaces."""
    spaces = {"audioscope"} | {
        f"audioscope.{name}" for name in ("atlas", "course", "datasets", "pages", "sae", "scoring", "steer", "tiny")
    }
    for node in ast.walk(ast.parse(file.read_text())):
        names = (
            [node.module]
            if isinstance(node, ast.ImportFrom)
            else [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else []
        )
        for name in names:
            assert not str(name).startswith("audioscope") or name in spaces, f"{file.name}:{node.lineno} imports {name}"


def test_slow_tests_are_named_as_they_are():
    """A test that was renamed would be fast again without notice; the laws are never left out of `make check`."""
    from helpers.timed import KEPT, named

    assert named() == sorted(set(named())) and not [test for test in named() if test.startswith(KEPT)]
    for test in named():
        file, _, function = test.partition("[")[0].partition("::")
        assert f"def {function}(" in (ROOT / file).read_text(), test
