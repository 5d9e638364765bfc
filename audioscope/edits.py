"""Edits: what is done at a site during a generation, as small frozen values.

An edit changes one row of a batch. Patches read another row of the same batch and the same step, so nothing is cached:
that row carries the other prompt, unedited, from the same seed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor

from audioscope.sites import Site

Which = str | Site | Iterable[str | Site] | None
Branch = Literal["both", "cond", "uncond"]


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What all edits share.

    sites: "cross", "self", "all", module paths, or Site values.
    steps: half-open window of denoising steps (first, last + 1); None is every step.
    branch: part of classifier-free guidance to change; without guidance there is only "cond".
    """

    sites: Which = field(kw_only=False)
    steps: tuple[int, int] | None = None
    branch: Branch = "both"
    place: ClassVar[Literal["text", "output"]] = "output"

    def __post_init__(self) -> None:
        if self.branch not in ("both", "cond", "uncond"):
            raise ValueError(f"branch is {self.branch!r}, expected 'both', 'cond' or 'uncond'.")
        if self.steps is not None and not (len(self.steps) == 2 and 0 <= self.steps[0] < self.steps[1]):
            raise ValueError(f"steps is {self.steps!r}, expected (first, last + 1) with 0 <= first < last + 1, or None.")

    def change(self, own: Tensor, other: Tensor | None) -> Tensor:
        """What becomes of a row's text or output `own`; `other` is the row that a patch copies from."""
        raise NotImplementedError

    def acts_at(self, step: int) -> bool:
        return self.steps is None or self.steps[0] <= step < self.steps[1]


@dataclass(frozen=True)
class PatchText(Edit):
    """Give one layer the text of another prompt: its text states and mask enter the site, the rest stays (TADA, eq. 2).

    Only cross-attention sites have text to swap; others raise ValueError when the run begins.
    """

    prompt: str
    place: ClassVar[Literal["text", "output"]] = "text"

    def change(self, own: Tensor, other: Tensor | None) -> Tensor:
        assert other is not None
        return other


@dataclass(frozen=True)
class PatchOutput(Edit):
    """Replace a site's output by what it is, at the same step and seed, in an unedited run of another prompt."""

    prompt: str

    def change(self, own: Tensor, other: Tensor | None) -> Tensor:
        assert other is not None
        return other


@dataclass(frozen=True)
class Ablate(Edit):
    """Take a site's contribution away: its output becomes zero, or its mean over the row's tokens."""

    to: Literal["zero", "mean"] = "zero"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.to not in ("zero", "mean"):
            raise ValueError(f"to is {self.to!r}, expected 'zero' or 'mean'.")

    def change(self, own: Tensor, other: Tensor | None) -> Tensor:
        return own.new_zeros(own.shape) if self.to == "zero" else own.mean(0, keepdim=True).expand_as(own)
