"""The exercises of the notebooks: an answer is checked, and a wrong one is told why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right (None: there is none yet), and what is said of it."""

    right: bool | None
    text: str

    @property
    def head(self) -> str:
        return {True: "Right.", False: "Not yet.", None: "Your turn."}[self.right]

    def __repr__(self) -> str:
        return f"{self.head} {self.text}"

    def _repr_html_(self) -> str:
        colour = {True: "#009e73", False: "#d55e00", None: "#0072b2"}[self.right]
        return (
            f'<div role="status" style="border-left:4px solid {colour};padding:4px 12px;margin:4px 0">'
            f"<b>{self.head}</b> {escape(self.text)}</div>"
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
    """Judge the answer to an exercise.

    right: whether an answer is. well: what a right one shows. wrong: kinds of wrong answers, each with why it is wrong, in words or made from the answer; the
    first that fits is said, else `otherwise`. kind: what the answer must be, such as int (numpy's numbers count; True and False do not).
    An answer of another kind, or one that a rule cannot be asked of, is said to be that, never raised.
    """
    if answer is None or answer is ...:
        return Verdict(None, "Put your answer in the cell above instead of None, run it, and then this one.")
    if isinstance(answer, np.generic):
        answer = answer.item()
    other = Verdict(
        False,
        f"Your answer is {answer!r:.80}, of type {type(answer).__name__}: the question asks for something else. {otherwise}",
    )
    if not isinstance(answer, kind) or (isinstance(answer, bool) and kind is int):
        return other
    try:
        if right(answer):
            return Verdict(True, well)
        for rule, why in wrong:
            if rule(answer):
                return Verdict(False, why if isinstance(why, str) else why(answer))
    except Exception:  # whatever a learner may give
        return other
    return Verdict(False, otherwise)
