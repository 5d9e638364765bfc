"""Edits: what is done at a site during a generation, as small frozen values.

An edit changes one row of a batch. Patches read another row of the same batch at the same step, so nothing is cached:
that row carries the other prompt, unedited, from the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from audioscope.errors import choice, index_of, listed, of_kind, one_or_more, real, said, whole
from audioscope.sites import MODULES, Site, Sites

Which = str | int | Site | Iterable[str | int | Site] | None
Branch = Literal["both", "cond", "uncond"]
Target = Literal["text", "output", "attention", "prediction", "path"]


@dataclass(frozen=True)
class Here:
    """Where and when an edit acts: the site, the noise level, and how its tokens map to time.

    The first `leading` tokens are not time (memory, duration); the others cover `seconds` evenly and in order (AudioLDM2's tokens
    are time by mel bands, so a token's time falls within the frame that its bands share). `words` are the places of the tokens of
    words in a text, for edits that act on these.
    """

    site: Site
    sigma: float
    leading: int
    seconds: float
    words: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Edit:
    """The base of all edits: where and when an edit acts, and on which branch.

    sites: "cross", "self", "all", module paths, or Site values.
    steps: half-open window of denoising steps (first, last + 1); None is every step.
    branch: part of classifier-free guidance to change; without guidance there is only "cond".
    """

    sites: Which = field(kw_only=False)
    steps: tuple[int, int] | None = None
    branch: Branch = "both"
    target: ClassVar[Target] = "output"
    of_words: ClassVar[bool] = False  # whether it acts on tokens of words of the row's own prompt, or of its `word` alone

    def __post_init__(self) -> None:
        choice("branch", self.branch, ("both", "cond", "uncond"))
        if self.steps is not None:
            object.__setattr__(self, "steps", _window(self.steps))
        object.__setattr__(self, "sites", _selection("sites", self.sites))

    def change(self, own: Tensor, other: Tensor | None, here: Here) -> Tensor:
        """The new value of a row's text or output `own` [tokens, width]; `other` is the row that a patch copies from."""
        raise NotImplementedError

    def mask(self, own: Tensor, other: Tensor | None) -> Tensor:
        """The new mask of a row's text: by default, the mask travels with the text of the row that a patch copies from."""
        assert other is not None
        return other

    @property
    def idle(self) -> bool:
        """Whether the edit changes nothing at all, so that a run need not even be traced for it."""
        return False

    def check(self, model: str, fingerprint: str, sites: Sites) -> None:
        """Raise ValueError for a model that the edit was not made for; by default, any model is accepted.

        model, fingerprint, sites: the model's name, the hash of its weights, and its sites.
        """

    def failed(self, sigmas: Sequence[float]) -> list[float]:
        """The noise levels among `sigmas` at which the edit is known not to do what it claims; by default, none."""
        return []

    @property
    def texts(self) -> tuple[str, ...]:
        """The other prompts that the edit needs; by default, none."""
        return ()

    @property
    def made_for(self) -> object:
        """What was made from one model and must be checked against it: a vector, an SAE. None if the edit fits any model."""
        return None

    def where(self, sites: Sites) -> tuple[Site, ...]:
        """The sites at which the edit acts, of a model's sites. Raises ValueError for one at which it cannot act."""
        return sites.select(self.sites)

    def acts_at(self, step: int) -> bool:
        return self.steps is None or self.steps[0] <= step < self.steps[1]


@dataclass(frozen=True)
class Copying(Edit):
    """The base of edits that need another row: their prompt, unedited, from the row's seed."""

    prompt: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.prompt, str):
            raise ValueError(f"prompt is {said(self.prompt)}, expected a text such as 'a slow sad song with violin'.")

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.prompt,)

    def change(self, own: Tensor, other: Tensor | None, here: Here) -> Tensor:
        assert other is not None
        return other


@dataclass(frozen=True)
class PatchText(Copying):
    """Give one layer the text of another prompt: its text states and mask enter the site, all else stays (TADA, eq. 2).

    Args:
        sites: Cross-attention sites, which alone have text to swap: "cross", a module path, the number of a layer, a Site, or a
            list of these; others raise ValueError when the run begins.
        prompt: The other prompt. It runs unedited in the same batch, from the same seed.
        steps: Half-open window of denoising steps (first, last + 1); None means every step.
        branch: The part of classifier-free guidance to change: "both", "cond" or "uncond"; without guidance there is only "cond".

    Raises:
        ValueError: The branch is unknown, or `steps` is not such a window.

    Example:
        >>> fast, slow = "a fast song with violin", "a slow song with violin"
        >>> patches = audioscope.PatchText("cross", fast), audioscope.PatchText(5, fast)
        >>> rows = [audioscope.Row(fast, 0), *(audioscope.Row(slow, 0, (patch,)) for patch in patches)]
        >>> goal, everywhere, layer_5 = model.run(rows, decode=False, steps=2).latents
        >>> bool((everywhere - goal).abs().max() < 1e-3), bool((layer_5 - goal).abs().max() < 1e-3)
        (True, False)
        >>> clip = model.generate(slow, edits=patches[1], steps=2)
    """

    target: ClassVar[Target] = "text"


@dataclass(frozen=True)
class PatchOutput(Copying):
    """Replace a site's output with its output, at the same step and seed, in an unedited run of another prompt.

    Args:
        sites: A kind ("cross", "self", "all"), a module path, the number of a cross-attention layer, a Site, or a list of these;
            None means all.
        prompt: The other prompt. It runs unedited in the same batch, from the same seed.
        steps: Half-open window of denoising steps (first, last + 1); None means every step.
        branch: The part of classifier-free guidance to change: "both", "cond" or "uncond"; without guidance there is only "cond".

    Raises:
        ValueError: The branch is unknown, or `steps` is not such a window.

    Example:
        >>> patch = audioscope.PatchOutput([0, 1], "a fast song with violin", steps=(0, 1))
        >>> clip = model.generate("a slow song with violin", edits=patch, steps=2)
    """


@dataclass(frozen=True)
class PatchPath(Copying):
    """Let chosen modules alone receive what a site would send them under another prompt, on the direct paths between them.

    A receiver is given what its input would be if the senders had put out what they do in an unedited run of the other prompt, at the
    same step and seed, and every other attention and feed-forward module before it what it puts out in the row itself. With one receiver,
    this is path patching along one edge (Goldowsky-Dill et al., arXiv 2304.05969): the direct path is what the residual stream carries
    past the modules between (Wang et al., arXiv 2211.00593, count what feed-forward modules pass on as direct, too; here they are held).
    With several, it patches the edges of a circuit: what one receiver then puts out reaches the others, as anything in the row does. A
    U-Net's convolutions and skips belong to the path. It takes one more row of the batch for each row on which it acts, and one for
    each other prompt and seed.

    Args:
        sites: The senders: attention modules, heads or memories of theirs, or feed-forward modules, named by a kind ("cross", "self",
            "all", "cross.heads", "feed_forward"), a module path, the number of a cross-attention layer, a Site, or a list of these.
        prompt: The other prompt. It runs unedited in the same batch, from the same seed.
        receivers: The attention or feed-forward modules that receive, named in the same ways, each after all senders; None means all that
            run after them. Cross-attention makes its queries of what it receives; its text stays.
        steps: Half-open window of denoising steps (first, last + 1); None means every step.
        branch: The part of classifier-free guidance to change: "both", "cond" or "uncond"; without guidance there is only "cond".

    Raises:
        ValueError: The branch is unknown, `steps` is not such a window, or (when the run begins) a sender gives nothing of its own to the
            stream, a receiver is no such module or not after all senders, or another path of the row ends at the same receiver.
        TypeError: `sites` or `receivers` is of another type (when the run begins).
        UnknownName: There is no such site (when the run begins).

    Example:
        >>> path = audioscope.PatchPath(0, "a fast song with violin", receivers=model.sites[6])
        >>> clip = model.generate("a slow song with violin", edits=path, steps=2)
    """

    receivers: Which = None
    target: ClassVar[Target] = "path"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "receivers", _selection("receivers", self.receivers))

    def where(self, sites: Sites) -> tuple[Site, ...]:
        senders = super().where(sites)
        for site in senders:
            if not (site.kind in MODULES or site.head is not None or site.is_memory):
                raise ValueError(
                    f"{site.path} gives nothing of its own to the stream: expected attention modules, heads, memories or feed-forward modules."
                )
        self.received(sites)
        return senders

    def received(self, sites: Sites) -> tuple[Site, ...]:
        """The receivers among a model's sites.

        Args:
            sites: The model's sites.

        Returns:
            The receivers, in running order.

        Raises:
            UnknownName: There is no such site.
            ValueError: One is no attention or feed-forward module, or runs before the senders are done.
            TypeError: `receivers` is of another type.

        Example:
            >>> [site.layer for site in audioscope.PatchPath(0, "a fast song", receivers=[9, 6]).received(model.sites)]
            [6, 9]
        """
        order = {site: number for number, site in enumerate(of_kind("sites", sites, Sites).every)}
        senders = super().where(sites)
        done = max(order[sites[site.module]] for site in senders)
        if self.receivers is None:
            chosen = tuple(site for site in sites.every[done + 1 :] if site.kind in MODULES)
            if not chosen:
                raise ValueError(f"No attention or feed-forward module runs after {senders[-1].path}, so nothing receives.")
            return chosen
        try:
            chosen = sites.select(self.receivers)
        except (TypeError, ValueError) as error:
            raise type(error)(f"receivers: {error}") from error
        if other := next((site for site in chosen if site.kind not in MODULES), None):
            raise ValueError(f"{other.path} receives nothing of its own: expected attention or feed-forward modules.")
        if early := next((site for site in chosen if order[site] <= done), None):
            raise ValueError(f"{early.path} runs before {senders[-1].path} is done, so it receives nothing from it.")
        return chosen


@dataclass(frozen=True)
class Ablate(Edit):
    """Remove a site's contribution: its output becomes zero, or its mean over the row's tokens.

    Args:
        sites: A kind ("cross", "self", "all"), a module path, the number of a cross-attention layer, a Site, or a list of these;
            None means all.
        to: "zero" or "mean".
        steps: Half-open window of denoising steps (first, last + 1); None means every step.
        branch: The part of classifier-free guidance to change: "both", "cond" or "uncond"; without guidance there is only "cond".

    Raises:
        ValueError: `to` or the branch is unknown, or `steps` is not such a window.

    Example:
        >>> _, after = model.generate_with_activations("a song with violin", 6, edits=audioscope.Ablate(6), steps=2)
        >>> after[6].abs().max().item()
        0.0
    """

    to: Literal["zero", "mean"] = "zero"

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("to", self.to, ("zero", "mean"))

    def where(self, sites: Sites) -> tuple[Site, ...]:
        chosen = super().where(sites)
        if self.to == "mean" and (memory := next((site for site in chosen if site.is_memory), None)):
            raise ValueError(f"{memory.path} is one token, its own mean: ablate it to 'zero'.")
        if self.to == "mean" and (text := next((site for site in chosen if site.of_text), None)):
            raise ValueError(
                f"{text.path} belongs to the text, whose padding would count in its mean, as many tokens as the batch needs: "
                "ablate it to 'zero'."
            )
        return chosen

    def change(self, own: Tensor, other: Tensor | None, here: Here) -> Tensor:
        return own.new_zeros(own.shape) if self.to == "zero" else own.mean(0, keepdim=True).expand_as(own)


@dataclass(frozen=True)
class MuteWord(Edit):
    """Cut a word out of what cross-attention brings: its tokens add nothing, and all else stays, in phase.

    Args:
        sites: Cross-attention modules or heads of theirs: "cross", "cross.heads", a module path, the number of a layer, a Site, or a
            list of these; others raise ValueError when the run begins.
        word: A word of the prompt, or its number from 0; of one that the prompt has twice, both.
        renormalize: Whether the other tokens take over the attention that the word had, as if it were masked.
        steps: Half-open window of denoising steps (first, last + 1); None means every step.
        branch: "cond", the part of classifier-free guidance that has the prompt.

    Raises:
        ValueError: The branch is another one, or `steps` is not such a window.
        UnknownName: The prompt does not have the word (when the run begins).

    Example:
        >>> prompt = "a slow song with violin"
        >>> clip = model.generate(prompt, edits=audioscope.MuteWord("cross", "violin"), steps=2)
        >>> one_head = model.generate(prompt, edits=audioscope.MuteWord(model.sites[9].heads[3], "violin"), steps=2)
    """

    word: str | int
    renormalize: bool = field(default=False, kw_only=True)
    branch: Branch = field(default="cond", kw_only=True)
    target: ClassVar[Target] = "attention"
    of_words: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.branch != "cond":
            raise ValueError(f"branch is {self.branch!r}, expected 'cond', which alone has the prompt's words.")
        if not (isinstance(self.word, str) and self.word.strip()):
            object.__setattr__(self, "word", whole("word", self.word, why=", or a word such as 'violin'"))
        if not isinstance(self.renormalize, bool | np.bool):
            raise ValueError(f"renormalize is {said(self.renormalize)}, expected True or False.")


@dataclass(frozen=True)
class BlendText(Copying):
    """Move a site's text states toward another prompt's: `own + amount * (other - own)`, token by token.

    At amount 0 nothing changes; beyond 1, the blend goes past the other prompt. Where either prompt has a token, the blend has
    one. This is the text-embedding interpolation that TADA compares with.

    Args:
        sites: Cross-attention sites, which alone have text to blend: "cross", a module path, the number of a layer, a Site, or a
            list of these; others raise ValueError when the run begins.
        prompt: The other prompt. It runs unedited in the same batch, from the same seed.
        amount: How far to move.
        steps: Half-open window of denoising steps (first, last + 1); None means every step.
        branch: The part of classifier-free guidance to change: "both", "cond" or "uncond"; without guidance there is only "cond".

    Raises:
        ValueError: The branch is unknown, or `steps` is not such a window.

    Example:
        >>> halfway = audioscope.BlendText("cross", "a fast song with violin", amount=0.5)
        >>> clip = model.generate("a slow song with violin", edits=halfway, steps=2)
    """

    amount: float = 1.0
    target: ClassVar[Target] = "text"

    @property
    def idle(self) -> bool:
        return self.amount == 0

    def change(self, own: Tensor, other: Tensor | None, here: Here) -> Tensor:
        assert other is not None
        return torch.lerp(own, other, self.amount)

    def mask(self, own: Tensor, other: Tensor | None) -> Tensor:
        assert other is not None  # the larger value lets a token through: 1 over 0, True over False, a bias of 0 over -10,000
        return own | other if own.dtype == torch.bool else torch.maximum(own, other)


@dataclass(frozen=True, eq=False)
class AddText(Edit):
    """Add to the text states of a prompt's words, and to no other tokens: steering by token embeddings.

    Args:
        sites: Cross-attention sites, which alone have text: "cross", a module path, the number of a layer, a Site, or a list of these;
            others raise ValueError when the run begins.
        directions: What is added, by module path, float [width of the text].
        strength: How many times it is added; at 0 nothing changes.
        word: The only word to which it is added, or its number from 0; None is all words of the prompt.
        steps: Half-open window of denoising steps (first, last + 1); None means every step.
        branch: "cond", the part of classifier-free guidance that has the prompt.

    Raises:
        ValueError: The branch is another one, `strength` is no number, a direction is no finite tensor of one dimension, `steps` is
            not such a window, a site has no direction (when the run begins), or its text another width (when it is reached).
        UnknownName: The prompt does not have the word (when the run begins).

    Example:
        >>> import torch
        >>> nothing = audioscope.AddText(0, {model.sites[0].path: torch.zeros(128)}, word="violin")
        >>> clip = model.generate("a song with violin", edits=nothing, steps=2)
    """

    directions: Mapping[str, Tensor]
    strength: float = 1.0
    word: str | int | None = field(default=None, kw_only=True)
    branch: Branch = field(default="cond", kw_only=True)
    target: ClassVar[Target] = "text"
    of_words: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "strength", real("strength", self.strength))
        if not isinstance(self.directions, Mapping):
            raise ValueError(f"directions is {said(self.directions)}, expected tensors by module path.")
        for path, direction in self.directions.items():
            if not isinstance(direction, Tensor) or direction.ndim != 1 or not bool(torch.isfinite(direction).all()):
                shape = list(direction.shape) if isinstance(direction, Tensor) else type(direction).__name__
                raise ValueError(f"The direction for {path} is {shape}, expected a finite tensor [width of the text].")
        if self.branch != "cond":
            raise ValueError(f"branch is {self.branch!r}, expected 'cond', which alone has the prompt's words.")

    @property
    def idle(self) -> bool:
        return self.strength == 0

    def where(self, sites: Sites) -> tuple[Site, ...]:
        chosen = super().where(sites)
        if lacking := next((site.path for site in chosen if site.path not in self.directions), None):
            raise ValueError(f"directions has nothing for {lacking}, only for {', '.join(self.directions) or 'no site'}.")
        return chosen

    def change(self, own: Tensor, other: Tensor | None, here: Here) -> Tensor:
        direction = self.directions[here.site.path].to(own)
        if direction.shape != own.shape[1:]:
            raise ValueError(f"The direction for {here.site.path} is {list(direction.shape)}, expected {list(own.shape[1:])}.")
        new = own.clone()
        new[list(here.words)] += self.strength * direction
        return new

    def mask(self, own: Tensor, other: Tensor | None) -> Tensor:
        return own


@dataclass(frozen=True)
class SlidePrediction(Edit):
    """Move what the denoiser predicts by the difference that two other prompts make, at each step and from the row's own latents.

    To the prediction of the row, `amount * (toward - away)` is added, where both are what the denoiser predicts from the same latents
    if the sites read `prompt`, or `away`, in place of the row's own. This is FreeSliders (arXiv 2511.00103, which has Concept Sliders'
    formula without their training); with guidance, it is added to the part that has the prompt, so the guided prediction moves by
    guidance times as much. At amount 1, away from the row's own prompt, the row is that of `PatchText(sites, prompt,
    branch="cond")`. It takes two more rows of
    the batch for each row, in which its other edits do not act, and one for each of the two prompts and a seed.

    Args:
        sites: The cross-attention sites that read the other prompts: "cross" for all, a module path, the number of a layer, a Site, or a
            list of these; others raise ValueError when the run begins.
        prompt: The prompt to move toward.
        away: The prompt to move away from.
        amount: How far to move; negative is the other way, and at 0 nothing changes.
        steps: Half-open window of denoising steps (first, last + 1); None means every step. FreeSliders leaves out the first ones.
        branch: "cond", the part of classifier-free guidance that has the prompt.

    Raises:
        ValueError: The branch is another one, `amount` is no number, or `steps` is not such a window.

    Example:
        >>> slide = audioscope.SlidePrediction("cross", "a fast song", away="a slow song", amount=0.5)
        >>> clip = model.generate("a song with violin", edits=slide, steps=2)
    """

    prompt: str
    away: str
    amount: float = 1.0
    branch: Branch = field(default="cond", kw_only=True)
    target: ClassVar[Target] = "prediction"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "amount", real("amount", self.amount))
        if self.branch != "cond":
            raise ValueError(f"branch is {self.branch!r}, expected 'cond', which alone has the prompt.")

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.prompt, self.away)

    @property
    def idle(self) -> bool:
        return self.amount == 0


@dataclass(frozen=True)
class Apply(Edit):
    """Change a site's output by a function of your own: `fn(output, here)` returns the new output, both float [tokens, width].

    For what no edit can do, use nnsight itself on `model.denoiser`: `notebooks/02_look_inside` traces it by hand.

    Args:
        sites: A kind ("cross", "self", "all"), a module path, the number of a cross-attention layer, a Site, or a list of these;
            None means all.
        fn: Called once per step for each row and branch that the edit acts on. `here.site` and `here.sigma` are the site and the
            noise level; the first `here.leading` tokens are not time (memory, duration), and the others cover `here.seconds`
            evenly and in order. ValueError is raised if the function returns another shape.
        steps: Half-open window of denoising steps (first, last + 1); None means every step.
        branch: The part of classifier-free guidance to change: "both", "cond" or "uncond"; without guidance there is only "cond".

    Raises:
        TypeError: `fn` is not a function.
        ValueError: The branch is unknown, or `steps` is not such a window.

    Example:
        >>> half = audioscope.Apply("cross", lambda output, here: output / 2, steps=(0, 3))
        >>> def double_while_noisy(output, here):
        ...     return output * 2 if here.sigma > 0.8 else output
        >>> double = audioscope.Apply(6, double_while_noisy, branch="cond")
        >>> model.generate("a song with violin", edits=[half, double], steps=3).samples.shape
        (1, 65536)
    """

    fn: Callable[[Tensor, Here], Tensor]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.fn):
            raise TypeError(f"fn is {self.fn!r}, expected a function of (output, here) that returns the new output.")

    def change(self, own: Tensor, other: Tensor | None, here: Here) -> Tensor:
        new = self.fn(own.clone(), here)  # a copy, since a function may keep what it got
        if not isinstance(new, Tensor) or new.shape != own.shape or not new.is_floating_point():
            returned = f"{new.dtype} {list(new.shape)}" if isinstance(new, Tensor) else type(new).__name__
            raise ValueError(
                f"The function of Apply returned {returned} at {here.site.path}, expected a float tensor {list(own.shape)}."
            )
        return new.to(own)


def as_edits(edits: Edit | Iterable[Edit]) -> tuple[Edit, ...]:
    """One edit or several, as a tuple. Raises TypeError, with what would be one, for anything else."""
    several = tuple(one_or_more(edits))
    for edit in several:
        if not isinstance(edit, Edit):
            hint = (
                "vector.edit(strength)" if hasattr(edit, "edit") else "Apply(sites, function)" if callable(edit) else "PatchText"
            )
            raise TypeError(f"edits contains {said(edit)}, expected edits such as {hint}.")
    return several


def _selection(name: str, which: Which) -> Which:
    """A selection of sites that lasts: several as a tuple."""
    if isinstance(which, Iterable) and not isinstance(which, str) and index_of(which) is None:
        return tuple(listed(name, which, "'cross', 'self', 'all', layers or module paths"))
    return which


def _window(steps: object) -> tuple[int, int]:
    """A half-open window of steps, from (first, last + 1) or a range. Raises ValueError for anything else."""
    parts = (steps.start, steps.stop) if isinstance(steps, range) and steps.step == 1 else steps
    ends = [] if isinstance(parts, range) else [index_of(end) for end in one_or_more(parts)]
    if len(ends) != 2 or ends[0] is None or ends[1] is None or not 0 <= ends[0] < ends[1]:
        raise ValueError(f"steps is {said(steps)}, expected (first, last + 1) with 0 <= first < last + 1, or None.")
    return ends[0], ends[1]


def span(seconds: object) -> tuple[float, float] | None:
    """A span of time in s, or None. Raises ValueError for anything else."""
    if seconds is None:
        return None
    expected = "(from, to) with 0 <= from < to, or None"
    ends = [real("seconds", end) for end in listed("seconds", seconds, expected)]
    if len(ends) != 2 or not 0 <= ends[0] < ends[1]:
        raise ValueError(f"seconds is {said(seconds)}, expected {expected}.")
    return ends[0], ends[1]


def curve_of(points: object) -> tuple[tuple[float, float], ...] | None:
    """Points of a curve over time, (second, share), in rising order, or None. Raises ValueError for anything else."""
    if points is None:
        return None
    expected = "points such as [(0, 0), (4, 1)]: (second, share of the strength), the seconds rising from 0 or later, or None"
    pairs = [listed("curve", pair, expected) for pair in listed("curve", points, expected)]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"curve is {said(points)}, expected {expected}.")
    found = tuple((real("curve", second), real("curve", share)) for second, share in pairs)
    if found[0][0] < 0 or any(one[0] >= other[0] for one, other in pairwise(found)):
        raise ValueError(f"curve is {said(points)}, expected {expected}.")
    return found


def middles(tokens: Tensor, here: Here) -> Tensor:
    """The time in the middle of each of a site's tokens [tokens, width] of the music, in s."""
    return (torch.arange(len(tokens), device=tokens.device) + 0.5) * (here.seconds / len(tokens))


def within(seconds: tuple[float, float] | None, new: Tensor, old: Tensor, here: Here) -> Tensor:
    """The new tokens [tokens, width] inside a span of time, the old ones outside it."""
    if seconds is None:
        return new
    middle = middles(old, here)
    inside = (middle >= seconds[0]) & (middle < seconds[1])
    return torch.where(inside[:, None], new, old)
