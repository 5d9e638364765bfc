"""Odd values for each argument of every public name: whatever is raised, is raised by a line of ours, and says why in one line.

The other arguments are those of the first call in the name's own example. Counted as found: an error that a library raised, and one
whose message has several lines or none. Values that are taken are not looked at. An hour or more for all names.

    python tests/campaigns/odd.py [--only TEXT] [--after NAME]
"""

from __future__ import annotations

import argparse
import contextlib
import doctest
import inspect
import io
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from huggingface_hub import constants

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from test_examples import DOCUMENTED

import audioscope
from campaigns.fuzz import ours

ODD: dict[str, Any] = {
    "None": None, "-1": -1, "1.5": 1.5, "a text": "x", "an empty list": [], "an empty dict": {}, "an object": object(), "NaN": float("nan"), "True": True,
    "a list of None": [None], "2**70": 2**70, "bytes": b"x", "a table": pd.DataFrame({"a": [1]}), "a tensor": torch.zeros(2, 3), "an array": np.zeros((2, 3)),
}  # fmt: skip
MADE = (
    "Activations",
    "Adapter",
    "Atlas",
    "AttentionMap",
    "Functional",
    "Plan",
    "PublishedAtlas",
    "Run",
    "Screen",
)  # made by functions, not by users
LONGEST = 10  # s for one call, which is then given up: the value was taken


class GivenUp(BaseException):
    """A call took too long."""


def _stop(*_: Any) -> None:
    raise GivenUp


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    signal.alarm(seconds)
    try:
        yield
    except GivenUp:
        pass
    finally:
        signal.alarm(0)


def first_call(path: str, value: Callable[..., Any], model: Any) -> tuple[Callable[..., Any], inspect.BoundArguments] | None:
    """What the example of a name calls first, with its arguments; None if it does not call it."""
    owner: Any = audioscope
    *names, last = path.split(".")[1:]
    for name in names:
        owner = getattr(owner, name)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    held = value if inspect.isclass(value) else owner
    own = inspect.getattr_static(held, "__init__" if inspect.isclass(value) else last)
    function = getattr(own, "__func__", own)

    @wraps(function)
    def noted(*given: Any, **named: Any) -> Any:
        if not inspect.isclass(value) or type(given[0]) is value:
            calls.append((given[inspect.isclass(value) :], dict(named)))
        return function(*given, **named)

    example = doctest.DocTestParser().get_doctest(
        inspect.cleandoc(value.__doc__ or ""), {"audioscope": audioscope, "model": model}, path, path, 0
    )
    put = type(own)(noted) if isinstance(own, classmethod | staticmethod) else noted
    with (
        patch.object(held, "__init__" if inspect.isclass(value) else last, put),
        contextlib.redirect_stderr(io.StringIO()),
        at_most(120),
    ):
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(example, out=lambda _: None)
    call = value if inspect.isclass(value) else function
    return (call, inspect.signature(call).bind(*calls[0][0], **calls[0][1])) if calls else None


def what_is_wrong(error: Exception) -> str:
    """Why an error is not one of ours; empty if it is."""
    if not str(error).strip() or "\n" in str(error):
        return "no message, or one of several lines"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return "" if ours(error) else f"raised at {Path(last.filename).name}:{last.lineno}"


def tried(call: Callable[..., Any], given: inspect.BoundArguments, name: str, value: Any) -> str:
    """Call with one argument replaced. Returns what is wrong with what is raised; empty if nothing is."""
    kind = given.signature.parameters[name].kind
    again = given.signature.bind(*given.args, **given.kwargs)
    again.arguments[name] = (value,) if kind is inspect.Parameter.VAR_POSITIONAL else value
    try:
        with at_most(LONGEST), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            call(*again.args, **again.kwargs)
    except Exception as error:
        why = what_is_wrong(error)
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]} ({why})" if why else ""
    return ""


def repeated(call: Callable[..., Any], given: inspect.BoundArguments) -> str:
    """Why a call cannot be made again as it was; empty if it can."""
    try:
        with at_most(120), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            call(*given.args, **given.kwargs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def campaign(only: str = "", after: str = "") -> dict[tuple[str, str, str], str]:
    """Try every value for every argument of the names with `only` in them that come after `after`. Returns what was found, by name, argument and value."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    model, found, before = audioscope.load("tiny"), {}, os.getcwd()
    handler = signal.signal(signal.SIGALRM, _stop)
    with tempfile.TemporaryDirectory() as folder, patch.object(constants, "HF_HUB_OFFLINE", True):
        os.chdir(folder)
        try:
            for path, value in sorted(DOCUMENTED.items()):
                if (
                    ">>>" not in (value.__doc__ or "")
                    or path.split(".")[-1] in (*MADE, "push_to_hub")
                    or only not in path
                    or path <= after
                ):
                    continue
                if (known := first_call(path, value, model)) is None:
                    print(f"not called by its own example: {path}", flush=True)
                    continue
                call, given = known
                if wrong := repeated(call, given):
                    print(f"cannot be called again: {path}: {wrong}", flush=True)
                    continue
                for name, parameter in given.signature.parameters.items():
                    if name in ("self", "cls", "atlas") or parameter.kind is inspect.Parameter.VAR_KEYWORD:
                        continue
                    for label, odd in ODD.items():
                        if wrong := tried(call, given, name, odd):
                            found[path, name, label] = wrong
                            print(f"FOUND {path}({name}={label}): {wrong}", flush=True)
                print(path, flush=True)
        finally:
            os.chdir(before)
            signal.signal(signal.SIGALRM, handler)
    return found


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", default="")
    options.add_argument("--after", default="", metavar="NAME", help="go on after this name, the last one of an earlier run")
    given = options.parse_args()
    sys.exit(bool(campaign(given.only, given.after)))
