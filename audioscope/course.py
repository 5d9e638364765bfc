"""The notebooks, to copy and work in, and their exercises: check an answer, and explain why a wrong one is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from audioscope.errors import as_path
from audioscope.errors import said as shown
from audioscope.store import made_folder, notebooks_folder

__all__ = ["Verdict", "check", "copy_notebooks"]
HEADS = {True: ("Right.", "#009e73"), False: ("Not yet.", "#d55e00"), None: ("Your turn.", "#0072b2")}


@dataclass(frozen=True)
class Verdict:
    """Whether an answer to an exercise is right, and the text to show; it prints both.

    Args:
        right: True or False; None if there is no answer yet.
        text: What to tell the learner.

    Example:
        >>> audioscope.course.Verdict(None, "Run the cell above first.")
        Your turn. Run the cell above first.
    """

    right: bool | None
    text: str

    def __repr__(self) -> str:
        return f"{HEADS[self.right][0]} {self.text}"

    def _repr_html_(self) -> str:
        head, color = HEADS[self.right]
        return (
            f'<div role="status" style="border-left:4px solid {color};padding:4px 12px;margin:4px 0">'
            f"<b>{head}</b> {escape(self.text)}</div>"
        )


def check(
    answer: Any,
    right: Callable[[Any], Any],
    *,
    well: str,
    wrong: Sequence[tuple[Callable[[Any], Any], str | Callable[[Any], str]]] = (),
    otherwise: str = "Look again at the section above.",
    kind: type | tuple[type, ...] = object,
) -> Verdict:
    """Check the answer to an exercise, and explain a wrong one.

    It never raises because of an answer: one of another type, or one that a rule fails on, gets a verdict that says so.

    Args:
        answer: What the learner gave; None or ... is no answer yet.
        right: Tells whether an answer is right.
        well: The text for a right answer.
        wrong: Rules for kinds of wrong answers, each with the reason, as a text or as a function of the answer; the first rule
            that matches gives the text.
        otherwise: The text for a wrong answer that no rule matches.
        kind: The expected type, such as int (NumPy's numbers count as int; True and False do not).

    Returns:
        The verdict, which a notebook shows in color.

    Example:
        >>> rules = [(lambda n: n == 12, "That is the number of layers, and layers count from 0.")]
        >>> audioscope.course.check(12, lambda n: n == 11, well="Yes, the last one.", wrong=rules, kind=int)
        Not yet. That is the number of layers, and layers count from 0.
    """
    try:
        isinstance(answer, kind)
    except TypeError:
        raise ValueError(f"kind is {shown(kind)}, expected the type of the answer, such as int.") from None
    if answer is None or answer is ...:
        return Verdict(None, "Replace None in the cell above with your answer, run that cell, and then run this one.")
    if isinstance(answer, np.generic):
        answer = answer.item()
    said = f"Your answer is {answer!r:.80}, of type {type(answer).__name__}: the question asks for something else. {otherwise}"
    other = Verdict(False, said)
    if not isinstance(answer, kind) or (isinstance(answer, bool) and kind is int):
        return other
    try:
        if right(answer):
            return Verdict(True, well)
        for rule, why in wrong:
            if rule(answer):
                return Verdict(False, why if isinstance(why, str) else why(answer))
    except Exception:  # a learner may enter anything
        return other
    return Verdict(False, otherwise)


def copy_notebooks(out: str | Path) -> list[Path]:
    """Copy the shipped notebooks to a folder to work in.

    Args:
        out: The folder; it is created if it does not exist, and existing files are left unchanged.

    Returns:
        The files that were copied.

    Example:
        >>> copied = audioscope.course.copy_notebooks("course")
        >>> copied[0].name
        '00_start_here.ipynb'
        >>> audioscope.course.copy_notebooks("course")  # nothing is overwritten
        []
    """
    out, copied = as_path(out), []
    made_folder(out)
    for file in sorted(notebooks_folder().glob("*.ipynb")):
        if not (out / file.name).exists():
            (out / file.name).write_bytes(file.read_bytes())
            copied.append(out / file.name)
    return copied
