"""The docstrings of public names: their sections name every argument and what is returned, and their examples run on `tiny`."""

from __future__ import annotations

import contextlib
import doctest
import inspect
import io
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from test_docs import public_names

import audioscope

SECTIONS = ("Args", "Returns", "Yields", "Raises", "Example", "Examples", "Note", "Attributes")


def found(path: str) -> Any:
    value: Any = audioscope
    for name in path.split(".")[1:]:
        value = getattr(value, name)
    return value


def documented() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function, class and method, with its path."""
    for path in sorted(public_names()):
        value = found(path)
        if not callable(value):
            continue
        yield path, value
        if inspect.isclass(value):
            for name, member in vars(value).items():
                member = member.__func__ if isinstance(member, classmethod | staticmethod) else member
                if not name.startswith("_") and inspect.isfunction(member) and member.__doc__:
                    yield f"{path}.{name}", member


DOCUMENTED = dict(documented())


def section(text: str, name: str) -> str:
    """One section of a docstring, dedented; empty if it has none."""
    match = re.search(rf"^{name}:\n((?:[ \t]+.*\n?|\n)*)", inspect.cleandoc(text) + "\n", re.MULTILINE)
    return inspect.cleandoc("\n" + match[1]) if match else ""


def arguments(value: Callable[..., Any]) -> set[str]:
    """The names of the arguments that a caller gives."""
    given = inspect.signature(value).parameters.values()
    return {each.name for each in given if each.name not in ("self", "cls", "args", "kwargs")}


@pytest.mark.parametrize("path", DOCUMENTED)
def test_sections_name_every_argument_and_the_result(path):
    value = DOCUMENTED[path]
    text = inspect.getdoc(value) or ""
    assert text and re.match(r"[A-Z`].*[.:]$", text.splitlines()[0]), "the first line is one sentence"
    if getattr(value, "_is_protocol", False):
        return
    named = {name for line in re.findall(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?: ", section(text, "Args"), re.MULTILINE)
             for name in re.split(r", ", line.replace("*", ""))}  # fmt: skip
    assert named == arguments(value), "Args names each argument once, and nothing else"
    if not inspect.isclass(value) and inspect.signature(value).return_annotation not in (
        "None",
        "NoReturn",
        inspect.Signature.empty,
    ):
        returned = section(text, "Returns") or section(text, "Yields")
        assert returned, "what it returns is said, with shape, dtype and units"
        assert ": " not in returned.splitlines()[0], "Sphinx takes what comes before a colon for a type"


@pytest.mark.parametrize("path", [path for path in DOCUMENTED if path in public_names()])
def test_every_public_name_has_an_example(path):
    """A class may have it in one of its methods."""
    texts = [inspect.getdoc(value) or "" for name, value in DOCUMENTED.items() if name == path or name.startswith(f"{path}.")]
    assert any(">>>" in text for text in texts)


@pytest.mark.parametrize("path", [path for path, value in DOCUMENTED.items() if ">>>" in (value.__doc__ or "")])
def test_the_example_runs(path, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = inspect.cleandoc(DOCUMENTED[path].__doc__ or "")
    test = doctest.DocTestParser().get_doctest(text, {"audioscope": audioscope, "model": tiny}, path, path, 0)
    report = io.StringIO()
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(test, out=report.write)
    assert not report.getvalue(), report.getvalue()
