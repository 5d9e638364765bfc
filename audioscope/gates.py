"""Gates: sites that move from their own output to another prompt's by a number, through the whole sampler, with gradients.

At gate 0 a site gives its own output, at gate 1 that of the other prompt, as `PatchOutput` does; between, their mixture. The score's
derivative by a gate is what attribution patching needs (Nanda, "Attribution Patching", 2023). The other prompt's outputs come from
a run before, so that the derivative takes one run forward and one backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from audioscope.model import Model
from audioscope.sites import Site
from audioscope.tracing import Row, Sampling, called_with, counting, decoded, masking, ready, stops_of

Stop = tuple[str, str]  # a module of the denoiser, and one of its ends


@dataclass(frozen=True)
class Outputs:
    """What unedited runs gave at sites: at each stop, for each step, the values of all rows and branches, on the CPU.

    Args:
        sites: The sites, in the order of the gates.
        steps: By stop, a tensor [stacked rows, tokens, width] for each step, in the model's precision.
        latents: Where the runs ended.
    """

    sites: tuple[Site, ...]
    steps: dict[Stop, list[Tensor]]
    latents: Tensor

    def at(self, numbers: Sequence[int]) -> Outputs:
        """Those of some of the sites, by their numbers."""
        return Outputs(tuple(self.sites[number] for number in numbers), self.steps, self.latents)


def outputs(model: Model, rows: Sequence[Row], sites: Sequence[Site], sampling: Sampling) -> Outputs:
    """Run prompts, and keep what the sites gave in every step. Raises ValueError for rows with edits."""
    if any(row.edits for row in rows):
        raise ValueError("Rows whose outputs are kept must have no edits.")
    stops = _stops(model, sites)
    kept: dict[Stop, list[Tensor]] = {stop: [] for stop in stops}

    def keep(stop: Stop, step: int, values: Tensor) -> None:
        kept[stop].append(values.detach().cpu())

    with torch.no_grad(), _running(model, rows, sampling, list(stops), keep) as latents:
        return Outputs(tuple(sites), kept, latents)


def gated(model: Model, rows: Sequence[Row], gates: Tensor, other: Outputs, sampling: Sampling) -> Tensor:
    """Run prompts with gates toward other prompts' outputs, and return the latents.

    rows: without edits. gates: float [rows, steps, sites], the sites in the order of `other`. other: of as many rows.
    Raises ValueError for gates of another shape.
    """
    with torch.no_grad(), _running(model, rows, sampling, *_mixing(model, rows, gates, other, sampling)) as latents:
        return latents


def gradients(
    model: Model, rows: Sequence[Row], gates: Tensor, other: Outputs, sampling: Sampling, score: Callable[[Tensor], Tensor],
    recompute: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Scores [rows] of runs with gates, and their derivatives by the gates [rows, steps, sites].

    score: from latents to a number for each row, such as of `sound_of`. recompute: keep one denoising step in memory, and compute
    each again for the gradient. The rest as for `gated`.
    """
    gates = gates.detach().requires_grad_(True)
    how = _mixing(model, rows, gates, other, sampling)
    with torch.enable_grad(), _running(model, rows, sampling, *how, recompute) as latents:
        scores = score(latents)
        (slopes,) = torch.autograd.grad(scores.sum(), gates)
    return scores.detach(), slopes


def pulls(
    model: Model, row: Row, sites: Sequence[Site], sampling: Sampling, score: Callable[[Tensor], Tensor], recompute: bool = False
) -> dict[Site, Tensor]:
    """By site, the derivative of a run's score by what whole modules give, [steps, stacked rows, tokens, width].

    score, recompute: as for `gradients`. Raises ValueError for a row with edits.
    """
    if row.edits:
        raise ValueError("A row whose score is followed back must have no edits.")
    stops, added = _stops(model, sites), dict[tuple[Stop, int], Tensor]()

    def add(stop: Stop, step: int, values: Tensor) -> Tensor:
        nothing = added.setdefault((stop, step), torch.zeros_like(values, requires_grad=True))
        return values + nothing

    with torch.enable_grad(), _running(model, [row], sampling, list(stops), add, recompute) as latents:
        slopes = torch.autograd.grad(score(latents).sum(), list(added.values()))
    by_stop: dict[Stop, list[Tensor]] = {stop: [] for stop in stops}
    for (stop, _), slope in zip(added, slopes, strict=True):
        by_stop[stop].append(slope)
    return {sites[number]: torch.stack(by_stop[stop]) for stop, there in stops.items() for number, _ in there}


def _mixing(
    model: Model, rows: Sequence[Row], gates: Tensor, other: Outputs, sampling: Sampling
) -> tuple[list[Stop], Callable[[Stop, int, Tensor], Tensor]]:
    """The stops of the sites, and what mixes their values with those of the other prompts."""
    if gates.shape != (len(rows), sampling.steps, len(other.sites)):
        raise ValueError(
            f"gates are {list(gates.shape)}, expected [rows, steps, sites] = {[len(rows), sampling.steps, len(other.sites)]}."
        )
    stops = _stops(model, other.sites)
    branches = len(model.adapter.rows(1, sampling.guidance))

    leading = model.adapter.leading(model.denoiser)

    columns: dict[Stop, Tensor] = {}  # which columns of a stop each site has, for the tokens of the memory and for the others
    for stop, there in stops.items():
        columns[stop] = torch.zeros(2, len(other.sites), other.steps[stop][0].shape[-1]).to(gates)
        for number, where in there:
            memory = other.sites[number].is_memory
            columns[stop][0 if memory else 1, number, slice(None) if where is None else where] = 1.0

    def mix(stop: Stop, step: int, values: Tensor) -> Tensor:
        first, share = (gates[:, step] @ columns[stop]).repeat(1, branches, 1).to(values)[:, :, None]
        if leading:  # a memory may be opened by itself and with its module, and goes no further than all the way
            first = (share + first - share * first).expand(-1, leading, -1)
            share = torch.cat([first, share.expand(-1, values.shape[1] - leading, -1)], 1)
        return values + share * (other.steps[stop][step].to(values) - values)

    return list(stops), mix


def differentiable(model: Model) -> Callable[..., Any]:
    """The pipeline's call, which diffusers wraps to forbid gradients, without the wrapper. Raises ValueError if there is none."""
    call: Callable[..., Any] | None = getattr(type(model.pipe).__call__, "__wrapped__", None)
    if call is None:
        raise ValueError(f"{type(model.pipe).__name__} does not let gradients through: it cannot be screened.")
    return call


def sound_of(model: Model, latents: Tensor, sampling: Sampling) -> Tensor:
    """The audio of latents [rows, channels, samples], through which gradients go where they are enabled.

    Raises FloatingPointError if it is not finite.
    """
    audio = decoded(model.pipe, model.adapter, latents, sampling.seconds, gradients=torch.is_grad_enabled())
    if not torch.isfinite(audio).all():
        raise FloatingPointError(f"{model.name} produces NaN or infinity here.")
    return audio


def _stops(model: Model, sites: Sequence[Site]) -> dict[Stop, list[tuple[int, slice | None]]]:
    """Where the sites are: the numbers of the sites at each stop, with their columns."""
    numbers = {site: number for number, site in enumerate(sites)}
    found = stops_of(model.denoiser, model.sites, numbers, ())
    return {(stop.module, stop.end): [(numbers[site], columns) for site, columns in stop.sites] for stop in found}


@contextmanager
def _running(
    model: Model, rows: Sequence[Row], sampling: Sampling, stops: Sequence[Stop],
    at: Callable[[Stop, int, Tensor], Tensor | None], recompute: bool = False,
) -> Iterator[Tensor]:  # fmt: skip
    """The latents of rows, from a run in which `at` sees the values at each stop in each step, and may replace them.

    While it lasts, what was not kept in memory can be computed again.
    """
    pipe, denoiser, call = model.pipe, model.denoiser, differentiable(model)
    steps, now, forward = count(), [0], denoiser.forward

    def in_step(step: int, *args: Any, **kwargs: Any) -> Any:
        now[0] = step
        return forward(*args, **kwargs)

    def counted(*args: Any, **kwargs: Any) -> Any:
        if recompute and torch.is_grad_enabled():
            return checkpoint(in_step, next(steps), *args, use_reentrant=False, **kwargs)
        return in_step(next(steps), *args, **kwargs)

    frozen = _frozen(model) if torch.is_grad_enabled() else nullcontext()
    with model.turn, frozen, ready(pipe), masking(pipe, model.adapter, model.sites), ExitStack() as hooks:
        for stop in stops:
            hooks.enter_context(_hooked(denoiser.get_submodule(stop[0]), stop, now, at))
        own = vars(denoiser).get("forward")  # nnsight may have put one there
        hooks.callback(*((setattr, denoiser, "forward", own) if own else (delattr, denoiser, "forward")))
        denoiser.forward = counted
        with counting(denoiser, pipe.scheduler, sampling.steps, None):
            latents = call(pipe, **called_with(pipe, model.adapter, rows, sampling))[0]
        yield latents


def _hooked(module: nn.Module, stop: Stop, now: list[int], at: Callable[[Stop, int, Tensor], Tensor | None]) -> Any:
    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        new = at(stop, now[0], args[0])
        return None if new is None else (new, *args[1:])

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        new = at(stop, now[0], output[0] if isinstance(output, tuple) else output)
        return None if new is None else (new, *output[1:]) if isinstance(output, tuple) else new

    return module.register_forward_pre_hook(before) if stop[1] == "input" else module.register_forward_hook(after)


@contextmanager
def _frozen(model: Model) -> Iterator[None]:
    """No gradients for weights."""
    parts = [part for part in model.pipe.components.values() if isinstance(part, nn.Module)]
    learning = [p for part in parts for p in part.parameters() if p.requires_grad]
    for weight in learning:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in learning:
            weight.requires_grad_(True)
