"""Edits: what is done at a site during a generation, as small frozen values.

An edit changes one row of a batch. Patches read another row of the same batch and the same step, so nothing is cached:
that row carries the other prompt, unedited, from the same seed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from audioscope.sae import SAE
from audioscope.sites import Site
from audioscope.vectors import SteeringVector

Which = str | Site | Iterable[str | Site] | None
Branch = Literal["both", "cond", "uncond"]
Mode = Literal["add", "keep_norm", "project_out"]
Do = Literal["set", "scale", "add", "ablate"]


@dataclass(frozen=True)
class Here:
    """Where and when an edit acts: the site, the noise level, and how its tokens lie in time.

    The first `leading` tokens are not time (memory, duration); the others cover `seconds` in order, evenly (AudioLDM2's are time
    by mel bands, so that a time falls within one frame of its bands).
    """

    site: Site
    sigma: float
    leading: int
    seconds: float


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
        if isinstance(self.sites, Iterable) and not isinstance(self.sites, str):
            object.__setattr__(self, "sites", tuple(self.sites))

    def change(self, own: Tensor, other: Tensor | None, here: Here) -> Tensor:
        """What becomes of a row's text or output `own` [tokens, width]; `other` is the row that a patch copies from."""
        raise NotImplementedError

    def mask(self, own: Tensor, other: Tensor | None) -> Tensor:
        """What becomes of the mask of a row's text: by default it travels with the text of the row that a patch copies from."""
        assert other is not None
        return other

    @property
    def idle(self) -> bool:
        """Whether it changes nothing at all, so that a run need not even be traced for it."""
        return False

    def acts_at(self, step: int) -> bool:
        return self.steps is None or self.steps[0] <= step < self.steps[1]


@dataclass(frozen=True)
class PatchText(Edit):
    """Give one layer the text of another prompt: its text states and mask enter the site, the rest stays (TADA, eq. 2).

    Only cross-attention sites have text to swap; others raise ValueError when the run begins.
    """

    prompt: str
    place: ClassVar[Literal["text", "output"]] = "text"

    def change(self, own: Tensor, other: Tensor | None, here: Here) -> Tensor:
        assert other is not None
        return other


@dataclass(frozen=True)
class PatchOutput(Edit):
    """Replace a site's output by what it is, at the same step and seed, in an unedited run of another prompt."""

    prompt: str

    def change(self, own: Tensor, other: Tensor | None, here: Here) -> Tensor:
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

    def change(self, own: Tensor, other: Tensor | None, here: Here) -> Tensor:
        return own.new_zeros(own.shape) if self.to == "zero" else own.mean(0, keepdim=True).expand_as(own)


@dataclass(frozen=True)
class BlendText(Edit):
    """Move a site's text states towards another prompt's: own + amount * (other - own), token by token.

    At amount 0 nothing changes; beyond 1 it goes past the other prompt. Where either prompt has a token, the blend has one.
    The text-embedding interpolation that TADA compares with.
    """

    prompt: str
    amount: float = 1.0
    place: ClassVar[Literal["text", "output"]] = "text"

    @property
    def idle(self) -> bool:
        return self.amount == 0

    def change(self, own: Tensor, other: Tensor | None, here: Here) -> Tensor:
        assert other is not None
        return torch.lerp(own, other, self.amount)

    def mask(self, own: Tensor, other: Tensor | None) -> Tensor:
        assert other is not None  # the larger one lets a token through: 1 over 0, True over False, a bias of 0 over -10,000
        return own | other if own.dtype == torch.bool else torch.maximum(own, other)


COPYING = PatchText | PatchOutput | BlendText  # edits that need another row: their prompt, unedited, from the row's seed


@dataclass(frozen=True)
class AddVector(Edit):
    """Steer: add `strength` times a steering vector to the outputs of its sites, at every time token (TADA, section 3).

    strength: in units of the mean norm of a site's output; negative steers away. mode: "add"; "keep_norm" gives each token
    its old norm back; "project_out" takes away `strength` times what each token has along the vector. seconds: only tokens
    from the first to the second of these times, in s. sites: None is all of the vector's. branch: "cond" by default, which
    guidance amplifies. Tokens that are not time (memory, duration) stay as they are.
    """

    sites: Which = field(default=None, kw_only=True)
    branch: Branch = field(default="cond", kw_only=True)
    vector: SteeringVector
    strength: float = 1.0
    mode: Mode = field(default="add", kw_only=True)
    seconds: tuple[float, float] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.vector, SteeringVector):
            raise TypeError(f"vector is a {type(self.vector).__name__}, expected a SteeringVector, as audioscope.caa makes.")
        if not abs(self.strength) < 1e6:
            raise ValueError(f"strength is {self.strength}, expected a finite number, most often between -2 and 2.")
        if self.mode not in ("add", "keep_norm", "project_out"):
            raise ValueError(f"mode is {self.mode!r}, expected 'add', 'keep_norm' or 'project_out'.")
        _check_seconds(self.seconds)
        if self.sites is None:
            object.__setattr__(self, "sites", self.vector.paths)

    @property
    def what(self) -> SteeringVector:
        return self.vector

    @property
    def idle(self) -> bool:
        return self.strength == 0

    def change(self, own: Tensor, other: Tensor | None, here: Here) -> Tensor:
        step = self.vector.at(here.site.path, here.sigma).to(own.device)
        old = own[here.leading :].float()
        if self.mode == "project_out":
            unit = torch.nn.functional.normalize(step, dim=0)
            new = old - self.strength * (old @ unit)[:, None] * unit
        else:
            new = old + self.strength * step
            if self.mode == "keep_norm":
                new = new * (old.norm(dim=1) / new.norm(dim=1).clamp_min(1e-12))[:, None]
        return torch.cat([own[: here.leading], _within(self.seconds, new, old, here).to(own.dtype)])


@dataclass(frozen=True)
class SAEEdit(Edit):
    """Change chosen features of a sparse autoencoder in a site's output, and nothing else: what the SAE does not say is kept.

    features: their numbers. do: "set" to a value, "scale" by a factor, "add" a value, or "ablate" (set to 0). value: in the
    feature's own units, those of `sae.encode`; features never fall below 0, but "add" may push along a direction negatively.
    seconds: only tokens from the first to the second of these times, in s. sites: None is the SAE's own. branch: "cond" by default,
    as for `AddVector`. Tokens that are not time stay as they are. Raises ValueError for features that the SAE does not have.
    """

    sites: Which = field(default=None, kw_only=True)
    branch: Branch = field(default="cond", kw_only=True)
    sae: SAE
    features: tuple[int, ...]
    do: Do = "ablate"
    value: float | None = None
    seconds: tuple[float, float] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.sae, SAE):
            raise TypeError(f"sae is a {type(self.sae).__name__}, expected an SAE, as audioscope.load_sae gives.")
        numbers = (self.features,) if isinstance(self.features, int) else tuple(int(f) for f in self.features)
        object.__setattr__(self, "features", numbers)
        if not numbers or len(set(numbers)) < len(numbers) or not all(0 <= f < self.sae.d_sae for f in numbers):
            raise ValueError(f"features is {numbers}, expected different numbers from 0 to {self.sae.d_sae - 1}.")
        if self.do not in ("set", "scale", "add", "ablate"):
            raise ValueError(f"do is {self.do!r}, expected 'set', 'scale', 'add' or 'ablate'.")
        if (self.value is None) != (self.do == "ablate"):
            raise ValueError(
                f"value is {self.value} for do={self.do!r}: give one for 'set', 'scale' and 'add', none for 'ablate'."
            )
        if self.value is not None and not (abs(self.value) < 1e6 and (self.value >= 0 or self.do == "add")):
            raise ValueError(f"value is {self.value}, expected a finite number, not negative unless it is added.")
        _check_seconds(self.seconds)
        if self.sites is None:
            if "site" not in self.sae.facts:
                raise ValueError("The SAE does not say of which site it is: name it, sites=...")
            object.__setattr__(self, "sites", (self.sae.facts["site"],))

    @property
    def what(self) -> SAE:
        return self.sae

    @property
    def idle(self) -> bool:
        return (self.do, self.value) in (("scale", 1), ("add", 0))

    def change(self, own: Tensor, other: Tensor | None, here: Here) -> Tensor:
        old = own[here.leading :].float()
        chosen = torch.tensor(self.features, device=own.device)
        now = self.sae.encode(old, here.sigma)[:, chosen]
        match self.do:
            case "scale":
                more = now * (self.value - 1)  # type: ignore[operator]
            case "add":
                more = torch.full_like(now, self.value)  # type: ignore[arg-type]
            case _:
                more = (self.value or 0.0) - now
        new = old + self.sae.difference(more, here.sigma, chosen)
        return torch.cat([own[: here.leading], _within(self.seconds, new, old, here).to(own.dtype)])


def _check_seconds(seconds: tuple[float, float] | None) -> None:
    if seconds is not None and not (len(seconds) == 2 and 0 <= seconds[0] < seconds[1]):
        raise ValueError(f"seconds is {seconds!r}, expected (from, to) with 0 <= from < to, or None.")


def _within(seconds: tuple[float, float] | None, new: Tensor, old: Tensor, here: Here) -> Tensor:
    """The new tokens [tokens, width] inside a span of time, the old ones outside of it."""
    if seconds is None:
        return new
    middle = (torch.arange(len(old), device=old.device) + 0.5) * (here.seconds / len(old))
    inside = (middle >= seconds[0]) & (middle < seconds[1])
    return torch.where(inside[:, None], new, old)
