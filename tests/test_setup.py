"""The set-up: one list of dependencies that nothing drifts from, the mending of torchaudio, a wheel that stands alone."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from audioscope import installed
from audioscope.fix_torchaudio import fix

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
README = (ROOT / "README.md").read_text()
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROSE = "\n".join(page.read_text() for page in DOCS)
MAKEFILE = (ROOT / "Makefile").read_text()
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())


def direct_dependencies() -> list[Requirement]:
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    return [Requirement(line) for line in PROJECT["dependencies"] + extras]


def constraints() -> dict[str, Requirement]:
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = [Requirement(line) for line in lines if line]
    return {canonicalize_name(pin.name): pin for pin in pins}


def code_lines(markdown: str) -> list[str]:
    """The lines of fenced blocks and the inline code of a page, without comments."""
    fence = re.compile(r"^```[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    lines = [line for block in fence.findall(markdown) for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", fence.sub("", markdown))
    return [line.split("  #")[0].strip() for line in lines]


def audioscope_commands(lines: list[str]) -> list[str]:
    """The arguments of each call of the command `audioscope`, up to the shell's next operator."""
    found = [re.match(r"(?:\S*/)?audioscope\s+([^>|;&]+)", line.strip()) for line in lines]
    return [match.group(1).strip() for match in found if match]


# --- one list of dependencies


@pytest.mark.parametrize("dependency", direct_dependencies(), ids=str)
def test_constraints_hold_every_direct_dependency(dependency: Requirement) -> None:
    pin = constraints().get(canonicalize_name(dependency.name))
    assert pin is not None, f"constraints.txt lacks {dependency.name}: add its tested version"
    (version,) = [part.version for part in pin.specifier]
    assert dependency.specifier.contains(version, prereleases=True), (
        f"constraints.txt has {pin}, pyproject.toml wants {dependency}"
    )


def test_constraints_are_exact_and_of_no_one_machine() -> None:
    for pin in constraints().values():
        assert [part.operator for part in pin.specifier] == ["=="], f"{pin} is not an exact version"
        assert pin.url is None and "+" not in str(pin.specifier), f"{pin} names one machine's build"


def test_what_must_be_pinned_is_pinned() -> None:
    wanted = {requirement.name: requirement.specifier for requirement in direct_dependencies()}
    assert wanted["nnsight"] == SpecifierSet(">=0.8.1,<0.9")
    assert wanted["diffusers"] == SpecifierSet(">=0.42.1,<0.43")


def test_conda_takes_torch_from_conda_and_the_rest_from_the_package() -> None:
    assert ENVIRONMENT["channels"] == ["conda-forge"]
    names = [line for line in ENVIRONMENT["dependencies"] if isinstance(line, str)]
    (pip,) = [line["pip"] for line in ENVIRONMENT["dependencies"] if isinstance(line, dict)]
    assert sorted(names) == sorted([f"python{PROJECT['requires-python']}", "pytorch", "torchaudio", "pip"])
    assert pip == ["-e .[lab,pages,test]"], "environment.yml installs the package; a second list of dependencies would drift"


# --- the README and the documentation say what is there


def test_readme_names_the_lowest_python() -> None:
    (lowest,) = [part.version for part in SpecifierSet(PROJECT["requires-python"])]
    assert f"Python {lowest} or later" in README


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
    named = {name for line in code_lines(PROSE) for name in re.findall(r"^make ([a-z]+)", line)}
    assert {"atlas", "test", "setup", "lab", "check", "docs", "book"} <= named
    assert named <= targets
    assert targets <= set(re.findall(r'@echo "make ([a-z]+)', MAKEFILE)) | {"help", "browser"}, "make help names all"


def test_no_text_suggests_another_projects_package() -> None:
    """`audioscope` on PyPI belongs to someone else."""
    files = [*DOCS, *(ROOT / "audioscope").rglob("*.py"), *(ROOT / "notebooks").glob("*.py"), *(ROOT / ".github").rglob("*.yml")]
    for file in files:
        assert not re.search(
            r"(pip|uv|pipx|conda) (install|add)\b[^\n`]*[\s'\"]audioscope(?=[\s'\"\[=<>~]|$)", file.read_text()
        ), file


def test_documented_commands_parse() -> None:
    from audioscope.cli.main import parser

    understands = parser()
    commands = audioscope_commands(code_lines(PROSE))
    assert {command.split()[0] for command in commands} >= {"sites", "atlas", "steer", "sae", "book", "generate", "tiny"}
    commands += audioscope_commands(MAKEFILE.splitlines())
    for command in commands:
        try:
            understands.parse_args(shlex.split(command))
        except SystemExit:
            pytest.fail(f"named in the documentation or the Makefile, but not understood: audioscope {command}")


def test_documented_files_exist() -> None:
    named = {
        line
        for line in code_lines(PROSE)
        if re.fullmatch(r"(notebooks|data|docs|tools|tests|audioscope)/\S+|[\w-]+\.(txt|yml|cff|toml)|LICENSE", line)
    }
    missing = sorted(name for name in named if not list(ROOT.glob(name)))
    assert len(named) > 8 and not missing, f"named in the documentation, but not there: {missing}"
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_the_course_page_lists_every_notebook() -> None:
    there = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert there == set(re.findall(r"book/(\d\d[a-z]?_\w+)\.html", (ROOT / "docs" / "course.md").read_text()))


def test_citation_has_the_package_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]


# --- extras


class Installed:
    """A distribution that was installed from somewhere, as PEP 610 records it."""

    def __init__(self, origin: dict | None):
        self.text = json.dumps(origin) if origin is not None else None

    def read_text(self, name: str) -> str | None:
        return self.text if name == "direct_url.json" else None


@pytest.mark.parametrize(
    ("origin", "hint"),
    [
        (None, "pip install 'audioscope-diffusion[pages]'"),
        ({"url": "file:///home/me/audioscope", "dir_info": {"editable": True}}, "pip install -e '/home/me/audioscope[pages]'"),
        ({"url": "file:///home/me/a%20b", "dir_info": {}}, "pip install '/home/me/a b[pages]'"),
        (
            {"url": "https://example.org/a.git", "vcs_info": {"vcs": "git", "commit_id": "12ab"}},
            "pip install 'audioscope-diffusion[pages] @ git+https://example.org/a.git@12ab'",
        ),
        ({"url": "file:///tmp/a.whl", "archive_info": {}}, "pip install 'audioscope-diffusion[pages] @ file:///tmp/a.whl'"),
    ],
)
def test_extras_install_from_where_this_copy_came_from(monkeypatch, origin, hint) -> None:
    monkeypatch.setattr(installed, "_this", Installed(origin))
    assert installed.install_hint("pages") == hint


def test_a_checkout_on_the_path_is_installed_in_place(monkeypatch) -> None:
    monkeypatch.setattr(installed, "_this", None)
    assert installed.install_hint("lab") == f"pip install -e '{ROOT}[lab]'"


def test_extras_are_those_of_the_project() -> None:
    """The modules that are looked for are those that the extra's requirements bring."""
    distributions = packages_distributions()
    for extra, modules in installed.EXTRAS.items():
        required = {canonicalize_name(Requirement(line).name) for line in PROJECT["optional-dependencies"][extra]}
        if all(find_spec(module) for module in modules):
            assert {canonicalize_name(name) for module in modules for name in distributions[module]} == required


CORE = """
import importlib.abc, sys

class Without(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {extras}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Without())
"""


@pytest.mark.slow
def test_the_core_works_without_extras_and_says_what_is_missing_before_any_work(tmp_path: Path) -> None:
    """As after `pip install audioscope-diffusion`: trace, localize, steer, charts and widgets; pages are refused by name."""
    extras = {name for names in installed.EXTRAS.values() for name in names} - {"ipykernel"}
    (tmp_path / "sitecustomize.py").write_text(CORE.replace("{extras}", repr(extras)))
    work = """
import sys, importlib.util
find = importlib.util.find_spec
import audioscope
from audioscope import installed
from audioscope.pages import html
installed.find_spec = html.find_spec = lambda name: None if name in EXTRAS else find(name)
model = audioscope.load("tiny")
model.generate("a jazz song", steps=1)._repr_html_()
atlas = audioscope.localize(model, ["fast"], pairs=1, sites=[1], steps=1, progress=False)
atlas.chart().to_dict()
model.play().wait()._repr_mimebundle_()
for call in (lambda: atlas.save_html("a.html"), lambda: atlas.save_site("a"), audioscope.show_charts, atlas.explore,
             lambda: audioscope.pages.make_book("book"), audioscope.scoring.Muq):
    try:
        call()
    except ImportError as error:
        assert "which is not installed: pip install " in str(error), error
    else:
        raise AssertionError(call)
from audioscope.cli.main import main
assert main(["atlas", "--out", "never"]) == 2 and main(["book", "--out", "never"]) == 2
import pathlib
assert not pathlib.Path("never").exists() and not pathlib.Path("a").exists()
print("core")
""".replace("EXTRAS", repr(extras))
    done = subprocess.run(
        [sys.executable, "-c", work],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip().endswith("core"), done.stderr


# --- torchaudio beside a CPU-only torch


def fake_packages(folder: Path, cuda: str | None, compiled_for_cuda: bool) -> dict[str, Path]:
    torch, torchaudio = folder / "torch", folder / "torchaudio"
    torch.mkdir()
    (torchaudio / "lib").mkdir(parents=True)
    (torch / "version.py").write_text(f"__version__ = '2.13.0'\ncuda = {cuda!r}\nhip = None\n")
    needs = b"libc10.so\0libc10_cuda.so\0" if compiled_for_cuda else b"libc10.so\0"
    (torchaudio / "lib" / "libtorchaudio.abi3.so").write_bytes(b"\x7fELF" + needs)
    (torchaudio / "lib" / "_torchaudio.abi3.so").write_bytes(b"\x7fELF")
    return {"torch": torch, "torchaudio": torchaudio}


def libraries(packages: dict[str, Path]) -> list[str]:
    return sorted(path.name for path in (packages["torchaudio"] / "lib").iterdir())


def test_mend_sets_cuda_files_aside_beside_a_cpu_torch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packages = fake_packages(tmp_path, cuda=None, compiled_for_cuda=True)
    aside = fix(**packages)
    assert libraries(packages) == ["_torchaudio.abi3.so.cuda", "libtorchaudio.abi3.so.cuda"]
    assert sorted(path.name for path in aside) == libraries(packages)
    assert "no CUDA" in capsys.readouterr().out, "the mending is visible"

    assert fix(**packages) == [], "a second call finds nothing to do"
    assert len(libraries(packages)) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("cuda", "compiled_for_cuda"), [("13.0", True), (None, False)], ids=["CUDA torch", "CPU torchaudio"])
def test_mend_leaves_what_works(tmp_path: Path, cuda: str | None, compiled_for_cuda: bool) -> None:
    packages = fake_packages(tmp_path, cuda, compiled_for_cuda)
    before = libraries(packages)
    assert fix(**packages) == []
    assert libraries(packages) == before


def test_torchaudio_imports_here() -> None:
    subprocess.run([sys.executable, "-c", "import torchaudio"], check=True)


# --- the wheel

OUTSIDE = """
import pathlib, sys
import numpy
import torch
import audioscope
from audioscope.store import data_folder

site = pathlib.Path(sys.argv[1])
for path in (pathlib.Path(audioscope.__file__), data_folder()):
    assert path.resolve().is_relative_to(site), f"{path} is not in the installed wheel"

model = audioscope.load("tiny")
clip = model.generate("a slow sad song with violin", seed=0, steps=2)
waveform = numpy.asarray(clip.samples)
assert waveform.size and numpy.isfinite(waveform).all()
assert len(audioscope.datasets.atlas().examples()) > 5
ear = audioscope.scoring.Musicnn(device="cpu")
assert numpy.isfinite(ear(torch.from_numpy(waveform)[None], clip.rate)).all(axis=None)
from audioscope.pages.book import make_book
from audioscope.store import notebooks_folder

assert notebooks_folder().resolve().is_relative_to(site) and not list(notebooks_folder().glob("*.py"))
pages = make_book(pathlib.Path(sys.argv[2]), names=["00_start_here"], progress=False)  # its kernel imports the wheel, too
assert "srcdoc" in pages.with_name("00_start_here.html").read_text()
print("played", waveform.shape)
"""


@pytest.mark.slow
def test_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    # Nothing here needs the network: hatchling is in the test extra, and the dependencies are the environment's.
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("audioscope_diffusion-*.whl")
    with ZipFile(wheel) as packed:
        kept = {name.split("/licenses/")[1] for name in packed.namelist() if "/licenses/" in name}
    assert kept == set(PROJECT["license-files"]) == {"LICENSE", *(str(f.relative_to(ROOT)) for f in ROOT.glob("data/**/LICENSE"))}
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", site, wheel], check=True)

    # -P and another working directory keep the checkout out; PYTHONPATH comes before the environment's editable install.
    played = subprocess.run(
        [sys.executable, "-P", "-c", OUTSIDE, site.resolve(), tmp_path / "book"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert played.returncode == 0, played.stderr
    assert "played" in played.stdout
